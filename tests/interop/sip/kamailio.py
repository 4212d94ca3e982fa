"""Kamailio as a proxy that stays in the path of every dialog (Record-Route), asks for a password if it has one, and says what
passes it."""

from places import udp_port
from processes import SCRATCH, Child
from stage import Stage

CONFIG = """\
#!KAMAILIO
debug=1
log_stderror=yes
fork=no
children=1
listen=udp:127.0.0.1:{port}
auto_aliases=no
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "siputils.so"
loadmodule "xlog.so"
loadmodule "auth.so"
request_route {{
    xlog("L_ALERT", "passes: $rm of $fU\\n");
    if (method == "CANCEL") {{
        if (t_check_trans()) t_relay();
        exit;
    }}
    if (has_totag()) {{
        if (loose_route()) t_relay();
        else if (method == "ACK") {{ if (t_check_trans()) t_relay(); }}
        else sl_send_reply("404", "Not Here");
        exit;
    }}
    {challenge}
    record_route();
    $du = "sip:127.0.0.1:{phone}";
    t_relay();
}}
"""
# Any username with this password.
CHALLENGE = """if (!pv_proxy_authenticate("pbx.example", "{password}", "0")) {{
        proxy_challenge("pbx.example", "1");
        exit;
    }}
    consume_credentials();"""


class Kamailio(Child):
    """A proxy on loopback before a phone at this port."""

    def __init__(self, stage: Stage, phone: int, password: str = "") -> None:
        super().__init__("kamailio")
        self._stage, self._phone = stage, phone
        self._challenge = CHALLENGE.format(password=password) if password else ""
        self.port = udp_port()
        self.uri = f"sip:200@127.0.0.1:{self.port}"

    async def run(self) -> None:
        file = SCRATCH / "kamailio.cfg"
        file.write_text(CONFIG.format(port=self.port, phone=self._phone, challenge=self._challenge))
        self._stage.stops_with(self)
        await self.start("kamailio", "-f", str(file), "-DD", "-E", "-Y", str(SCRATCH))
        await self.wait_for_line("Kamailio to listen", lambda line: f"[127.0.0.1]:{self.port}" in line)

    def passed(self, user: str) -> list[str]:
        """The methods of the requests of this user that passed."""
        words = [line.partition("passes: ")[2].split() for line in self.lines]
        return [found[0] for found in words if len(found) == 3 and found[2] == user]
