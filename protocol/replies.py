"""Which message answers which request."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from protocol import envelopes as e

REPLIES: Final[Mapping[type[e.Request], type[e.Reply]]] = MappingProxyType(
    {
        e.Auth: e.Authed,
        e.SyncRequest: e.Synced,
        e.WatchRequest: e.Watching,
        e.Send: e.Sent,
        e.Edit: e.Changed,
        e.Recall: e.Changed,
        e.History: e.Page,
        e.Get: e.Page,
        e.ConvCreate: e.ConvInfo,
        e.ConvGet: e.ConvInfo,
        e.ConvList: e.ConvPage,
        e.ConvChange: e.Changed,
        e.MyChange: e.Changed,
        e.ConvDrop: e.Changed,
        e.Members: e.MemberPage,
        e.MemberAdd: e.Changed,
        e.MemberDrop: e.Changed,
        e.MemberSet: e.Changed,
        e.PersonaSave: e.PersonaInfo,
        e.PersonaGet: e.PersonaInfo,
        e.PersonaList: e.PersonaPage,
        e.PersonaDrop: e.Changed,
        e.Gen: e.GenOk,
        e.Cancel: e.Done,
        e.Pick: e.Changed,
        e.Open: e.Opened,
        e.Confirm: e.Done,
        e.Usage: e.UsageInfo,
        e.UserGet: e.Users,
        e.UserFind: e.Users,
        e.ProfileSet: e.Changed,
        e.DeviceList: e.Devices,
        e.DeviceDrop: e.Changed,
    }
)
"""The reply to every request when it succeeds; `Err` when it does not."""
