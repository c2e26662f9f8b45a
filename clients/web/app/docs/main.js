// The page that shows the document of the HTTP API and tries requests: Swagger UI, a plain script
// of the page, made to live under the policy of the other pages (docs/decisions/0014).

import { Words } from "../i18n.js";
import { described } from "./described.js";
import { flat } from "./flat.js";

const { parlanceTheme, SwaggerUIBundle } = globalThis;

const tables = {
  en: {
    "docs.hint":
      "To try a request: get a token from POST /api/v1/auth/guest or login, press Authorize, and paste it. " +
      "Requests are real and go to this server. A token is forgotten when the page is left.",
  },
  zh: {
    "docs.hint":
      "试用请求:先用 POST /api/v1/auth/guest 或 login 取得令牌,再点 Authorize 粘贴。" +
      "请求会真实发送到本服务器。离开页面后令牌即被忘记。",
  },
};

function followTheme() {
  const device = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const { chosen } = parlanceTheme;
    const dark = chosen === "dark" || (chosen === "system" && device.matches);
    document.documentElement.classList.toggle("dark-mode", dark);
  };
  apply();
  device.addEventListener("change", apply);
  globalThis.addEventListener("storage", apply);
}

/** The viewer itself speaks English, as the document does; what is ours has both languages. */
function followLanguage() {
  const words = new Words({ tables });
  const [hint, button] = ["hint", "language"].map((id) => document.getElementById(id));
  const draw = () => {
    hint.lang = words.locale;
    hint.textContent = words.say("docs.hint");
    button.textContent = words.language === "en" ? "中文" : "English";
    button.lang = words.language === "en" ? "zh-CN" : "en";
  };
  button.addEventListener("click", () => words.choose(words.language === "en" ? "zh" : "en"));
  words.addEventListener("change", draw);
  draw();
}

followTheme();
followLanguage();
SwaggerUIBundle({
  url: "/api/openapi.json",
  domNode: document.getElementById("viewer"),
  deepLinking: true,
  docExpansion: "none", // eighty open operations are drawn anew at each step, which takes seconds
  displayRequestDuration: true,
  filter: true,
  validatorUrl: null, // or it would send the document to another site
  plugins: [described, flat],
});
