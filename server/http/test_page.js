"use strict";
(() => {
  const TEXTS = {
    en: {
      title: "Try a persona", persona: "Persona", send: "Send", stop: "Stop", clear: "New talk",
      signIn: "Please sign in to go on.", guest: "Come in as a guest",
      token: "or with a token or API key", place: "Write a message", other: "中文",
      lost: "The connection broke. Please try again.",
      figures: (u) => `${u.prompt_tokens} tokens read, ${u.completion_tokens} written`,
    },
    zh: {
      title: "试聊角色", persona: "角色", send: "发送", stop: "停止", clear: "新对话",
      signIn: "请先登录再继续。", guest: "以访客身份进入",
      token: "或使用令牌或 API 密钥", place: "写一条消息", other: "English",
      lost: "连接中断，请重试。",
      figures: (u) => `读入 ${u.prompt_tokens} 个词元，写出 ${u.completion_tokens} 个`,
    },
  };
  const byId = (id) => document.getElementById(id);
  let lang = navigator.language.startsWith("zh") ? "zh" : "en";
  let talk = [];
  let running = null;
  let guestToken = "";

  function translate() {
    const texts = TEXTS[lang];
    document.documentElement.lang = lang;
    for (const node of document.querySelectorAll("[data-text]")) {
      node.textContent = texts[node.dataset.text];
    }
    byId("message").placeholder = texts.place;
    byId("language").textContent = texts.other;
  }

  function row(kind, text) {
    const node = document.createElement("div");
    node.className = `row ${kind}`;
    node.append(document.createTextNode(text));
    byId("talk").append(node);
    node.scrollIntoView({ block: "end" });
    return node;
  }

  function grow(node, text) {
    node.firstChild.appendData(text);
    node.scrollIntoView({ block: "end" });
  }

  async function ask(text) {
    talk.push({ role: "user", content: text });
    row("user", text);
    running = new AbortController();
    byId("stop").hidden = false;
    byId("send").disabled = true;
    const answer = { node: null, text: "", thoughts: null };
    try {
      await receive(answer);
    } catch (error) {
      if (error.name !== "AbortError") row("failed", error.shown || TEXTS[lang].lost);
    } finally {
      running = null;
      byId("stop").hidden = true;
      byId("send").disabled = false;
      if (answer.text) talk.push({ role: "assistant", content: answer.text });
      else talk.pop();
    }
  }

  function fail(text) {
    const error = new Error("refused");
    error.shown = text;
    return error;
  }

  async function receive(answer) {
    const headers = { "Content-Type": "application/json" };
    const token = byId("token").value.trim() || guestToken;
    if (token) headers.Authorization = `Bearer ${token}`;
    const body = { persona_id: byId("persona").value, messages: talk, stream: true };
    const response = await fetch("/test/api/chat", {
      method: "POST", headers, body: JSON.stringify(body), signal: running.signal,
    });
    if (!response.ok) {
      if (response.status === 401) byId("sign-in").hidden = false;
      throw fail((await response.json()).error);
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) take(event, answer);
    }
  }

  function take(event, answer) {
    if (!event.startsWith("data: ") || event === "data: [DONE]") return;
    const value = JSON.parse(event.slice(6));
    if (value.success === false) throw fail(value.error);
    if (value.reasoning) {
      answer.thoughts = answer.thoughts || row("thought", "");
      grow(answer.thoughts, value.reasoning);
    }
    if (value.delta) {
      answer.node = answer.node || row("answer", "");
      answer.text += value.delta;
      grow(answer.node, value.delta);
    }
    if (value.usage) byId("figures").textContent = TEXTS[lang].figures(value.usage);
  }

  async function comeIn() {
    const response = await fetch("/api/v1/auth/guest", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: "{}",
    });
    const answer = await response.json();
    if (!response.ok) {
      row("failed", answer.error.message);
      return;
    }
    guestToken = answer.token;
    byId("sign-in").hidden = true;
  }

  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = byId("message").value.trim();
    if (!text || running) return;
    byId("message").value = "";
    ask(text);
  });
  byId("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("form").requestSubmit();
    }
  });
  byId("stop").addEventListener("click", () => running && running.abort());
  byId("guest").addEventListener("click", comeIn);
  byId("clear").addEventListener("click", () => {
    if (running) running.abort();
    talk = [];
    byId("talk").replaceChildren();
    byId("figures").textContent = "";
  });
  byId("language").addEventListener("click", () => {
    lang = lang === "zh" ? "en" : "zh";
    translate();
  });
  translate();
})();
