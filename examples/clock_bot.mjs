// Tells the time to people who write "time Asia/Tokyo" to it.
//
// Run: node examples/clock_bot.mjs

import { Bot } from "../clients/web/sdk/bot.js";

const style = { dateStyle: "full", timeStyle: "short" };

await new Bot("parlance://127.0.0.1:8420", "Clock").run(({ text }) => {
  const zone = text.match(/^time (\S+)$/i)?.[1];
  if (!zone) return null;
  if (!Intl.supportedValuesOf("timeZone").includes(zone)) return `No time zone is called ${zone}.`;
  return new Date().toLocaleString("en-GB", { ...style, timeZone: zone });
});
