// Asks a persona in plain JSON, without any library.
//
// Run: node --experimental-websocket examples/plain_json.mjs "What can you do?"

const host = "127.0.0.1:8420";
const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" };
const guest = await (await fetch(`http://${host}/api/v1/auth/guest`, request)).json();
const socket = new WebSocket(`ws://${host}/ws/${guest.user.id}`);
const send = (message) => socket.send(JSON.stringify(message));

socket.onopen = () => send({ type: "auth", token: guest.token });
socket.onmessage = ({ data }) => {
  const told = JSON.parse(data);
  if (told.type === "welcome") send({ type: "chat", content: process.argv[2] ?? "Hello!" });
  if (told.delta) process.stdout.write(told.delta);
  if (told.done) console.log(told.error?.message ?? ""), socket.close();
};
