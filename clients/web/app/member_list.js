// Who is in a room, and what one may do about it.

import { ConvKind, Role } from "../sdk/client.js";
import { Avatar } from "./avatar_view.js";
import { useApp } from "./context.js";
import { askHowLong, tryTo } from "./conversation_actions.js";
import { Icon } from "./icons.js";
import { addPeople } from "./new_room.js";
import { MenuButton } from "./overlay.js";
import { html, useSignal } from "./ui.js";

/** `Conv.flags`: only administrators add members. */
export const ADMINS_INVITE = 2;
/** The members that come with a conversation; those beyond are read page by page. */
const FIRST_MEMBERS = 200;
const PAGE = 100;
const HOUR = 3_600_000;
const MUTES = [
  ["room.mute_hour", HOUR],
  ["room.mute_8_hours", 8 * HOUR],
  ["room.mute_week", 7 * 24 * HOUR],
];

/** The members of a group, with the button to add more. */
export function MemberList({ view }) {
  const app = useApp();
  const { model, say } = app;
  const { members, more } = useMembers(app, view);
  const isOpen = ((view.row.flags ?? 0) & ADMINS_INVITE) === 0;
  return html`
    <section class="panel-part">
      <div class="panel-line">
        <h3>${say("conversation.members", { count: members.length })}</h3>
        ${(isOpen || model.isManager(view)) &&
        html`
          <button type="button" class="button small" onClick=${() => addPeople(app, view)}>
            <${Icon} name="add" />${say("room.add_people")}
          </button>
        `}
      </div>
      <ul class="member-list" role="list">
        ${members.map((member) => html`<${Member} key=${member.user} view=${view} member=${member} />`)}
      </ul>
      ${more && html`<button type="button" class="button small" onClick=${more}>${say("room.more_members")}</button>`}
    </section>
  `;
}

/** Those held, and those that were read beyond them; `more` reads on, null when all are here. */
function useMembers(app, view) {
  const { client, model } = app;
  const beyond = useSignal({ items: [], cursor: "", isWhole: false });
  const held = view.present();
  const known = new Set(view.members.keys());
  const all = [...held, ...beyond.value.items.filter(({ user }) => !known.has(user))];
  const named = new Map(all.map((member) => [member, model.nameOf(member.user, view)]));
  all.sort((a, b) => (b.role ?? 0) - (a.role ?? 0) || named.get(a).localeCompare(named.get(b)));
  const read = () =>
    tryTo(app, async () => {
      const { items, cursor } = beyond.peek();
      const page = await client.memberPage(view.conv, cursor, PAGE);
      beyond.value = { items: [...items, ...page.items], cursor: page.cursor, isWhole: !page.cursor };
    });
  const isWhole = held.length < FIRST_MEMBERS || beyond.value.isWhole;
  return { members: all, more: isWhole ? null : read };
}

function Member({ view, member }) {
  const app = useApp();
  const { model, say } = app;
  const { user, role } = member;
  const name = model.nameOf(user, view);
  const isMe = user === model.me;
  const online = isMe || model.isOnline(user);
  const isMuted = (member.mute_until ?? 0) > Date.now();
  const about = [
    isMe ? say("room.you") : say(online ? "presence.online" : "presence.offline"),
    ROLES[role] ? say(ROLES[role]) : "",
    isMuted ? say("room.is_muted") : "",
  ];
  const items = isMe ? [] : memberItems(app, view, member, name);
  return html`
    <li class="member">
      <${Avatar} id=${user} name=${name} avatar=${model.avatarOf(user, view)} size="small" online=${online} />
      <span class="grow">
        <span class="member-name ellipsis">${name}</span>
        <span class="member-about quiet ellipsis">${about.filter(Boolean).join(" · ")}</span>
      </span>
      ${items.length > 0 && html`<${MenuButton} label=${say("conversation.menu", { title: name })} items=${items} />`}
    </li>
  `;
}

const ROLES = { [Role.ADMIN]: "room.admin", [Role.OWNER]: "room.owner" };

/** What one may do about a member, for `MenuButton`; the server allows no more. */
function memberItems(app, view, member, name) {
  const { model, say } = app;
  const mine = model.roleIn(view);
  const role = member.role ?? Role.MEMBER;
  const item = (id, icon, run, danger = false) => ({ id, icon, label: say(`room.${id}`), run, danger });
  const items = [item("write", "person", () => write(app, member.user))];
  if (mine === Role.OWNER) {
    const isAdmin = role === Role.ADMIN;
    const set = () => setMember(app, view, member, { role: isAdmin ? Role.MEMBER : Role.ADMIN });
    items.push(item(isAdmin ? "take_admin" : "make_admin", "check", set));
    items.push(item("hand_over", "next", () => handOver(app, view, member.user, name)));
  }
  if (mine >= Role.ADMIN && role < mine) {
    const isMuted = (member.mute_until ?? 0) > Date.now();
    const mute = isMuted ? () => setMember(app, view, member, { mute: 0 }) : () => muteMember(app, view, member);
    items.push(item(isMuted ? "unmute_member" : "mute_member", isMuted ? "bell" : "volume_off", mute));
    items.push(item("remove", "block", () => removeMember(app, view, member.user, name), true));
  }
  return items;
}

async function write(app, user) {
  await tryTo(app, async () => {
    const { row } = await app.client.createConversation(ConvKind.DIRECT, { members: [user] });
    app.route.chat(row.id);
  });
}

/** Role and mute are stored together: what is not named stays as it is. */
async function setMember(app, view, { user, role, mute_until }, changes) {
  const left = Math.max(0, (mute_until ?? 0) - Date.now());
  const { role: wanted = role, mute = left } = changes;
  await tryTo(app, () => app.client.setMember(view.conv, user, wanted, mute));
}

async function muteMember(app, view, member) {
  const mute = await askHowLong(app, app.say("room.mute_member"), MUTES);
  if (mute !== undefined) await setMember(app, view, member, { mute });
}

async function handOver(app, view, user, name) {
  const { client, overlay, say } = app;
  const yes = await overlay.confirm({
    title: say("room.hand_over_title", { name }),
    text: say("room.hand_over_text"),
    yes: say("room.hand_over"),
    no: say("action.cancel"),
  });
  if (yes) await tryTo(app, () => client.changeConversation(view.conv, { owner: user }));
}

async function removeMember(app, view, user, name) {
  const { client, overlay, say } = app;
  const yes = await overlay.confirm({
    title: say("room.remove_title", { name }),
    yes: say("room.remove"),
    no: say("action.cancel"),
    danger: true,
  });
  if (yes) await tryTo(app, () => client.dropMember(view.conv, user));
}
