// Where one is signed in, and ending that for one of the places.

import { ClientError, toHex } from "../sdk/client.js";
import { useApp } from "./context.js";
import { Section, useReading, Waiting } from "./settings_section.js";
import { html, useEffect } from "./ui.js";

export function DeviceSettings() {
  const { client, say } = useApp();
  const { reading, again } = useReading(() => client.listDevices(), [client]);
  useEffect(() => {
    client.addEventListener("devicesChanged", again);
    return () => client.removeEventListener("devicesChanged", again);
  }, [client]);
  const { value, error } = reading.value;
  return html`
    <${Section} title=${say("settings.devices")} hint=${say("settings.devices_hint")}>
      ${value === undefined
        ? html`<${Waiting} error=${error} again=${again} />`
        : html`
            <ul class="settings-list">
              ${[...value]
                .sort((a, b) => Number(b.online) - Number(a.online) || b.seen - a.seen)
                .map((device) => html`<${Device} key=${toHex(device.device)} device=${device} again=${again} />`)}
            </ul>
          `}
    <//>
  `;
}

function Device({ device, again }) {
  const { client, overlay, say, words } = useApp();
  const isThis = toHex(device.device) === toHex(client.device);
  const name = [device.name, device.platform].filter(Boolean).join(" · ") || say("settings.device_unnamed");
  const when = words.time(new Date(device.seen ?? 0));
  const leave = async () => {
    const isSure = await overlay.confirm({
      title: say("settings.device_out_title", { name }),
      text: say("settings.device_out_text"),
      yes: say("account.sign_out"),
      no: say("action.cancel"),
    });
    if (!isSure) return;
    try {
      await client.dropDevice(device.device);
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      overlay.complain(error);
    }
    await again();
  };
  return html`
    <li>
      <div class="grow">
        <p class="ellipsis">${name}</p>
        <p class="hint quiet">
          ${isThis ? say("settings.device_this") : device.online ? say("presence.online") : say("settings.device_seen", { when })}
        </p>
      </div>
      ${!isThis &&
      html`
        <button
          type="button"
          class="button small"
          aria-label=${say("settings.device_out", { name })}
          onClick=${leave}
        >
          ${say("account.sign_out")}
        </button>
      `}
    </li>
  `;
}
