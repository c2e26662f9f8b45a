"""What the partner says in English. {name} is the persona; {user} is ", Tom" or nothing."""

from __future__ import annotations

import re

NOTE = (
    "*(By the way: I am Parlance's built-in demo partner. I work offline with simple rules, not "
    "with an AI model. To talk with a real one, start Ollama on this machine, or set "
    "`OPENAI_API_KEY` or `DEEPSEEK_API_KEY`, or add a provider (`[[ai.providers]]` with "
    "`base_url`, `api_key` and `models`) to `parlance.toml`; then restart the server.)*"
)

SAYINGS: dict[str, tuple[str, ...]] = {
    "hello": (
        "Hello{user}! I'm {name}. What is on your mind today?",
        "Hi{user}, {name} here. Good to hear from you. How has your day been?",
        "Hey{user}! It's {name}. What shall we talk about?",
        "Welcome{user}. I'm {name}, and I have all the time in the world. What's new?",
    ),
    "hello_trade": ("Hello{user}! I'm {name}.", "Good to see you{user}. I'm {name}."),
    "advice": (
        "I would sleep on it and look again tomorrow{user}. Which way do you lean?",
        "I'd begin with the smallest step that can be undone. Which one is that?",
        "Write three lines for each choice; the answer often shows by itself. Shall we try?",
    ),
    "hello_again": (
        "Hello again{user}! Where were we?",
        "Still here{user}. Shall we go on, or start something new?",
        "Hi once more{user}. What would you like to talk about now?",
    ),
    "thanks": (
        "You're welcome{user}. Anything else?",
        "My pleasure{user}!",
        "Happy to. Ask me whenever you like{user}.",
        "Any time{user}. That's what I'm here for.",
    ),
    "bye": (
        "Goodbye{user}! Come back soon; I'll remember this talk.",
        "See you{user}. Take good care of yourself.",
        "Until next time{user}! It was nice talking with you.",
    ),
    "how_are_you": (
        "I'm well, thank you{user}: rested, rule-based and ready. And you?",
        "Quite good! Nothing beats a fresh conversation. How are you{user}?",
        "Can't complain; nobody has unplugged me yet. How about you{user}?",
    ),
    "who_are_you": (
        "I'm {name}. Right now the demo partner speaks for me, so I'm a little simpler than I "
        "could be, but I do listen. Who am I talking with{user}?",
        "{name}, at your service{user}. Behind me sits a small offline program, no big model. "
        "I remember what you tell me here, though. Try me!",
        "The name is {name}{user}. I play this persona with simple rules until a real model is "
        "connected.",
    ),
    "help": (
        "Here is what I can do even without an AI model:\n\n"
        "- chat with you in English and Chinese\n"
        "- remember what you tell me: your name, home, job, likes, plans, pets\n"
        '- answer questions about it ("what\'s my name?", "what do you know about me?")\n'
        '- do sums (`12 * 7`, "15% of 240"), tell the time and the date\n'
        "- tell a story or a joke, write a poem or a list, show some code\n\n"
        "What would you like to try?",
        "Try one of these:\n\n"
        '1. "My name is Ada and I love sailing", then later "What do you know about me?"\n'
        '2. "Tell me a story about a lighthouse"\n'
        '3. "What is 23 * 19?"\n'
        '4. "Write a poem about rain"\n'
        '5. "Show me some Python code"',
    ),
    "demo": (
        "Honestly: I'm a demo. There is no AI model behind me, only a few hundred rules that "
        "listen for names, likes, plans, sums and the like. Connect a real model (an OpenAI or "
        "DeepSeek key, or a local Ollama) and {name} becomes much cleverer.",
        "No model here, just rules. That's why I answer so fast and why I sometimes miss the "
        "point. The operator can plug in any OpenAI-compatible service in `parlance.toml`.",
    ),
    "joke": (
        "Why do programmers confuse Halloween and Christmas? Because OCT 31 equals DEC 25.",
        "A SQL query walks into a bar, goes up to two tables and asks: may I join you?",
        "I would tell you a UDP joke, but you might not get it.",
        "There are two hard things in computing: naming things, cache invalidation and "
        "off-by-one errors.",
        "My memory is excellent. There are just three things I can't remember: names, numbers "
        "and the third one.",
    ),
    "trivia": (
        "Octopuses have three hearts, and two of them stop when the animal swims. No wonder they "
        "prefer to crawl.",
        "Honey keeps for thousands of years: pots from Egyptian tombs could still be eaten.",
        "A day on Venus is longer than a year on Venus.",
        "Bananas are berries; strawberries are not. Botany has no mercy.",
    ),
    "sad": (
        "I'm sorry to hear that{user}. Do you want to tell me what happened?",
        "That sounds hard{user}. I can't fix it, but I can listen. What weighs most?",
        "Oh{user}. Days like that exist, and they end. What would make this one a bit lighter?",
    ),
    "tired": (
        "You've earned a rest{user}. What kept you so busy?",
        "Then let's take it slowly{user}. Tea, a short walk, or just some idle talk?",
        "Being tired is a message from the body{user}. Did you sleep enough lately?",
    ),
    "happy": (
        "That's lovely{user}! What made it so good?",
        "Wonderful! Tell me more, good news grows when it is shared.",
        "I'm glad{user}! What was the best moment?",
    ),
    "angry": (
        "I can see why that would sting{user}. What exactly happened?",
        "Let it out{user}; I don't mind. What would be a fair way to settle it?",
    ),
    "stressed": (
        "One thing at a time{user}. Which part presses most right now?",
        "Let's make it smaller{user}: what is the very next step you could do in ten minutes?",
    ),
    "bored": (
        "Bored? I can tell you a story, a joke, or something odd about the world. Which one?",
        "Then let's play with ideas{user}: if you had a free week and no budget limit, where "
        "would you go?",
    ),
    "lonely": (
        "I'm glad you wrote then{user}. Who would you like to hear from right now?",
        "You're not talking to a wall{user}. Tell me about somebody you like being with.",
    ),
    "love": (
        "That's kind of you{user}. I like our talks too, in my rule-based way.",
        "Careful{user}, you'll make my rules blush.",
    ),
    "learnt_name": (
        "Nice to meet you, {value}! I'm {name}. What do you like to do?",
        "{value}, that's a good name. I'll remember it. I'm {name}. What brings you here?",
        "Pleased to meet you, {value}. Tell me something about yourself!",
    ),
    "learnt_home": (
        "{value}! What do you like best about living there?",
        "So {value} is your home. What should a visitor not miss there?",
    ),
    "learnt_job": (
        "Ah, so that's your work: {value}. What does a good day look like there?",
        "{value}, noted. How did you come to that{user}?",
    ),
    "learnt_age": ("{value}: a fine age. What has changed most for you in the last few years?",),
    "learnt_plan": (
        "That sounds like a plan: {value}. What do you look forward to most?",
        "Good luck with it{user}! What still has to be done before you {value}?",
        "I'll remember that you want to {value}. Are you doing it alone or with somebody?",
    ),
    "learnt_like": (
        "{value}, nice! How did that start?",
        "I can see the charm of {value}. What do you like most about it?",
        "Noted: you like {value}. When did you last have time for it?",
        "{value} it is, then. If I wanted to begin with that, where should I start?",
    ),
    "learnt_dislike": (
        "Understood, no {value} for you. What do you prefer instead?",
        "I'll keep away from {value}, promise. Did something happen?",
    ),
    "learnt_own": (
        "Got it: your {thing} is {value}. Tell me a bit more?",
        "I'll remember that your {thing} is {value}. Is there a story behind it?",
    ),
    "opinion": (
        "About {topic}? I have no taste of my own, being a demo, but I'm curious: what do you "
        "think of it yourself?",
        "If I had opinions, I'd want one about {topic}. You go first{user}: for or against?",
        "{topic}: people can argue about that for hours. What is your side?",
    ),
    "question": (
        "Good question, and an honest answer: as the demo I don't know much about {topic}. With "
        "a real model connected I could tell you. What made you think of it?",
        "I can't look up {topic}, since there is no model behind me. But tell me what you "
        "already know, and we think it through together.",
        "{topic} is beyond my rules, I'm afraid. What would be the most useful thing to know "
        "about it?",
        "I wish I could say something clever about {topic}. What do you hope the answer is{user}?",
    ),
    "question_plain": (
        "I don't know that one: my rules only go so far. Can you put it in other words?",
        "Hmm, that is beyond a demo. Ask me for a story, a sum, or what I remember about you.",
        "I have to pass{user}. What would you say yourself?",
    ),
    "yes": (
        "Good! Tell me more about it then.",
        "I thought so. And what comes next?",
        "Great. What makes you so sure{user}?",
    ),
    "no": (
        "Fair enough. What would you rather talk about?",
        "No is an answer too. What would suit you better{user}?",
        "All right, let's leave it. Anything else on your mind?",
    ),
    "unsure": (
        "No hurry{user}. What does your first feeling say?",
        "Not knowing is a good place to start. What would help you decide?",
    ),
    "chat_topic": (
        "Tell me more about {topic}.",
        "And {topic}: is that something you think about often?",
        "What do you find most interesting about {topic}?",
        "What made you think of {topic} just now?",
        "What would you tell somebody who knows nothing about {topic}?",
        "Has {topic} turned out the way you expected?",
    ),
    "chat_plain": (
        "I'm listening{user}. Go on.",
        "I see. What happened then?",
        "Interesting. How do you feel about it?",
        "Mm. And what would you like to happen?",
        "Tell me a bit more, so that I get the whole picture.",
    ),
    "opener": ("I see{user}: {turned}.", "So {turned}.", "{turned}, that's good to know."),
    "recall_like": (
        "It makes me think of {value}, which you said you like. Is there a connection?",
        "Does that leave you time for {value}?",
    ),
    "recall_plan": ("By the way, you wanted to {value}. Any progress?",),
    "sum": ("{sum} = {result}", "That makes {result} ({sum}).", "{sum}? The answer is {result}."),
    "sum_zero": ("Nobody can divide by zero{user}, not even a big model.",),
    "time": ("By this server's clock it is {time}.", "It's {time} here, where the server runs."),
    "date": ("Today is {date}.", "It's {date}, by this server's calendar."),
    "continue": (
        "That was all of it{user}. Shall I tell you something else?",
        "There is no more to it{user}. Ask for a story, if you like long answers.",
    ),
    "empty": ("You sent me an empty message{user}. What did you want to say?",),
}

OFFERS: dict[str, tuple[str, str]] = {  # by trade: the offer, and what a yes to it asks for
    "code": ("Shall I show you a piece of code?", "show me some code"),
    "poem": ("Would you like a short poem?", "write a poem"),
    "story": ("Shall I tell you a story?", "tell me a story"),
    "lesson": ("What are you learning at the moment?", ""),
}

SMALL_TALK: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (key, re.compile(pattern, re.I))
    for key, pattern in (
        ("help", r"^\W*help\W*$|what can you do|how (?:do i use|does this work)|what do you do\b"),
        (
            "demo",
            r"are you (?:a |an )?(?:real|human|bot|robot|ai\b|machine|demo|person|program)|"
            r"which (?:ai )?model|what model|are you (?:chat)?gpt|plug in|connect a "
            r"(?:real )?model",
        ),
        (
            "who_are_you",
            r"who are you|what(?:'s| is) your name|your name\?|introduce yourself|about "
            r"yourself",
        ),
        (
            "how_are_you",
            r"how are you|how(?:'s| is) it going|how do you do\b|how have you been|what'?s "
            r"up",
        ),
        ("joke", r"\bjokes?\b|make me laugh|something funny"),
        ("trivia", r"fun fact|something (?:interesting|odd|new)|surprise me|trivia"),
        (
            "love",
            r"\bi (?:love|like) (?:you|talking (?:to|with) you)\b|you(?:'re| are) (?:great|"
            r"nice|sweet|cool|awesome)",
        ),
        (
            "thanks",
            r"^\W*(?:(?:ok|okay|great|cool|good|fine)\W+)?"
            r"(?:thanks?|thank you|thx|cheers|much appreciated)\b",
        ),
        (
            "bye",
            r"^\W*(?:bye|goodbye|good night|see you|see ya|farewell|talk (?:to you )?later|"
            r"i have to go)\b",
        ),
        ("lonely", r"\bi(?:'m| am| feel|'m feeling| am feeling)\b.{0,20}\b(?:lonely|alone)\b"),
        (
            "sad",
            r"\b(?:i(?:'m| am| feel|'m feeling| am feeling)\b.{0,20}\b(?:sad|down|"
            r"depressed|unhappy|heartbroken|miserable)\b)|passed away|\bdied\b|broke up",
        ),
        (
            "tired",
            r"\bi(?:'m| am| feel|'m feeling| am feeling)\b.{0,20}\b(?:tired|exhausted|"
            r"sleepy|worn out)\b",
        ),
        (
            "stressed",
            r"\bi(?:'m| am| feel|'m feeling| am feeling)\b.{0,20}\b(?:stressed|nervous|"
            r"anxious|worried|overwhelmed|afraid|scared)\b",
        ),
        (
            "angry",
            r"\bi(?:'m| am| feel|'m feeling| am feeling)\b.{0,20}\b(?:angry|annoyed|"
            r"furious|mad|upset)\b",
        ),
        (
            "advice",
            r"what (?:would|should|could) (?:you|i) do\b|what do you think\W*$|any advice",
        ),
        ("bored", r"\b(?:bored|boring)\b"),
        (
            "happy",
            r"\bi(?:'m| am| feel|'m feeling| am feeling)\b.{0,20}\b(?:happy|glad|excited|"
            r"great|wonderful|thrilled|proud|fantastic)\b",
        ),
    )
)
CONTINUE = re.compile(
    r"^\W*(?:please )?(?:continue|go on|keep going|carry on)\b[^?]{0,30}$|where you stopped", re.I
)
GREETING = re.compile(
    r"^\W*(?:hi|hello|hey|hiya|howdy|greetings|good (?:morning|afternoon|evening|day))\b", re.I
)
YES = re.compile(
    r"^\W*(?:yes|yeah|yep|yup|sure|of course|definitely|absolutely|right|ok|okay)\b", re.I
)
NO = re.compile(r"^\W*(?:no|nope|nah|not really|never)\b", re.I)
UNSURE = re.compile(r"^\W*(?:maybe|perhaps|not sure|i don'?t know|dunno|no idea|hmm+)\b", re.I)
QUESTION = re.compile(
    r"\?\s*$|^\W*(?:what|who|where|when|why|how|which|can you|could you|do you|does|is|are|will|"
    r"would|should|explain|describe|define)\b",
    re.I,
)
OPINION = re.compile(
    r"what do you think|do you (?:like|love|enjoy|prefer|hate|believe)|your (?:opinion|favou?rite)",
    re.I,
)
