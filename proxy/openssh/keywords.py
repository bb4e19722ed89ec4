"""What is done with each option of an ssh_config that differs from ssh's default.

`ssh -G` prints options by these names. An option about security, or about the way to the server, is honoured,
or refused with a remedy. An option that is ignored has no effect here, or would make us less strict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Use(StrEnum):
    """What is done with an option."""

    HONOURED = "used"
    HARMLESS = "not used"
    STRICTER = "not followed"
    """It asks for less than we do without it."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Keyword:
    """`why` explains it to the operator; of a refused option it is the remedy.

    A refused option is harmless with a value for which `is_fine` is true.
    """

    use: Use
    why: str = ""
    is_fine: Callable[[str], bool] = lambda _: False


def _harmless(why: str) -> Keyword:
    return Keyword(Use.HARMLESS, why)


def _refused(remedy: str, is_fine: Callable[[str], bool] = lambda _: False) -> Keyword:
    return Keyword(Use.REFUSED, remedy, is_fine)


def _one_of(*values: str) -> Callable[[str], bool]:
    return lambda value: value.lower() in values


def _each(keyword: Keyword, *lines: str) -> dict[str, Keyword]:
    return dict.fromkeys(" ".join(lines).split(), keyword)


KEYWORDS: Final[dict[str, Keyword]] = {
    **_each(
        Keyword(Use.HONOURED),
        "addressfamily bindaddress certificatefile ciphers connecttimeout globalknownhostsfile host "
        "hostkeyalgorithms",
        "hostkeyalias hostname identitiesonly identityagent identityfile kbdinteractiveauthentication "
        "kexalgorithms",
        "knownhostscommand macs port proxycommand proxyjump pubkeyacceptedalgorithms "
        "pubkeyacceptedkeytypes rekeylimit",
        "revokedhostkeys tcpkeepalive user userknownhostsfile",
    ),
    **_each(
        _harmless("no shell or command is run"),
        "channeltimeout enableescapecommandline escapechar forkafterauthentication localcommand "
        "obscurekeystroketiming",
        "permitlocalcommand remotecommand requesttty sendenv sessiontype setenv stdinnull",
    ),
    **_each(
        _harmless("clusters are what is forwarded"),
        "clearallforwardings dynamicforward exitonforwardfailure forwardagent forwardx11 forwardx11timeout "
        "forwardx11trusted",
        "gatewayports localforward permitremoteopen remoteforward streamlocalbindmask "
        "streamlocalbindunlink tunnel tunneldevice",
        "xauthlocation",
    ),
    **_each(
        _harmless("nobody is there to be asked, or to read it"),
        "batchmode fingerprinthash loglevel logverbose numberofpasswordprompts syslogfacility "
        "visualhostkey warnweakcrypto",
    ),
    **_each(
        _harmless("kubemux logs in with keys alone"),
        "challengeresponseauthentication enablesshkeysign gssapiauthentication gssapiclientidentity "
        "gssapidelegatecredentials",
        "gssapikexalgorithms gssapikeyexchange gssapirenewalforcesrekey gssapiserveridentity gssapitrustdns",
        "hostbasedacceptedalgorithms hostbasedauthentication hostbasedkeytypes",
        "kbdinteractivedevices passwordauthentication",
    ),
    **_each(
        _harmless("ssh has done it in reading the file"),
        "canonicaldomains canonicalizefallbacklocal canonicalizehostname canonicalizemaxdots "
        "canonicalizepermittedcnames",
        "ignoreunknown tag",
    ),
    **_each(
        _harmless("known_hosts is yours: kubemux learns host keys into learned_host_keys, if that is set"),
        "hashknownhosts updatehostkeys",
    ),
    **_each(_harmless("kubemux shares its own links"), "controlmaster controlpath controlpersist"),
    **_each(_harmless("the gateway's keepalive: counts"), "serveralivecountmax serveraliveinterval"),
    **_each(
        Keyword(Use.STRICTER, "the host key is always checked against known_hosts"),
        "nohostauthenticationforlocalhost stricthostkeychecking verifyhostkeydns",
    ),
    "addkeystoagent": _harmless("kubemux gives no key away"),
    "compression": _harmless("what goes through is encrypted, and does not shrink"),
    "connectionattempts": _harmless("kubemux dials until it succeeds"),
    "ipqos": _harmless("packets are not marked"),
    "versionaddendum": _harmless("it is a remark"),
    "bindinterface": _refused("give the interface's address: BindAddress ADDRESS"),
    "casignaturealgorithms": _refused(
        "take it out for this host; certificates that a CA in known_hosts signed are accepted"
    ),
    "checkhostip": _refused("say CheckHostIP no: known_hosts is looked up by the name alone", _one_of("no")),
    "pkcs11provider": _refused(
        "load the token into an ssh-agent (ssh-add -s PROVIDER), and say IdentityAgent or agent: true"
    ),
    "preferredauthentications": _refused(
        "kubemux logs in with keys: let it include publickey", lambda value: "publickey" in value.split(",")
    ),
    "proxyusefdpass": _refused("let the ProxyCommand carry the bytes: ProxyUseFdpass no", _one_of("no")),
    "pubkeyauthentication": _refused(
        "kubemux logs in with keys: PubkeyAuthentication yes", _one_of("yes", "true", "unbound", "host-bound")
    ),
    "requiredrsasize": _refused(
        "take it out for this host, and name no shorter key in IdentityFile and known_hosts"
    ),
    "securitykeyprovider": _refused(
        "load the key into an ssh-agent, and say IdentityAgent or agent: true", _one_of("internal", "none")
    ),
}
"""The keywords as `ssh -G` prints them, in lower case: those of OpenSSH 8.0 to 10, and Debian's own."""

UNKNOWN: Final = _refused("this kubemux does not know it: take it out for this host, or ask for it")
"""For an option of a newer ssh."""
