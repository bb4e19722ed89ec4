"""What kubemux does with each option of an ssh_config that differs from ssh's default.

An option about security, or about how to reach the server, is honoured, or refused with a remedy. kubemux
ignores an option if it has no effect here, or if it would make kubemux less strict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Use(StrEnum):
    """What kubemux does with an option."""

    HONOURED = "used"
    HARMLESS = "not used"
    STRICTER = "not followed"
    """It asks for a check that is less strict than ours."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Keyword:
    """`why` explains the use to the operator. If the option is refused, `why` is the remedy.

    An option is not refused if `is_fine` is true for its value: then it is harmless.
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
        _harmless("kubemux forwards to its clusters, and to nothing else"),
        "clearallforwardings dynamicforward exitonforwardfailure forwardagent forwardx11 forwardx11timeout "
        "forwardx11trusted",
        "gatewayports localforward permitremoteopen remoteforward streamlocalbindmask "
        "streamlocalbindunlink tunnel tunneldevice",
        "xauthlocation",
    ),
    **_each(
        _harmless("a daemon has no user to ask, or to show something to"),
        "batchmode fingerprinthash loglevel logverbose numberofpasswordprompts syslogfacility "
        "visualhostkey warnweakcrypto",
    ),
    **_each(
        _harmless("kubemux logs in with public keys only"),
        "challengeresponseauthentication enablesshkeysign gssapiauthentication gssapiclientidentity "
        "gssapidelegatecredentials",
        "gssapikexalgorithms gssapikeyexchange gssapirenewalforcesrekey gssapiserveridentity gssapitrustdns",
        "hostbasedacceptedalgorithms hostbasedauthentication hostbasedkeytypes",
        "kbdinteractivedevices passwordauthentication",
    ),
    **_each(
        _harmless("ssh -G has applied it already"),
        "canonicaldomains canonicalizefallbacklocal canonicalizehostname canonicalizemaxdots "
        "canonicalizepermittedcnames",
        "ignoreunknown tag",
    ),
    **_each(
        _harmless("known_hosts is yours: kubemux learns host keys into learned_host_keys, if that is set"),
        "hashknownhosts updatehostkeys",
    ),
    **_each(_harmless("kubemux shares its own links"), "controlmaster controlpath controlpersist"),
    **_each(
        _harmless("the key keepalive of the gateway is used instead"),
        "serveralivecountmax serveraliveinterval",
    ),
    **_each(
        Keyword(Use.STRICTER, "the host key is always checked against known_hosts"),
        "nohostauthenticationforlocalhost stricthostkeychecking verifyhostkeydns",
    ),
    "addkeystoagent": _harmless("kubemux adds no key to an ssh-agent"),
    "compression": _harmless("TLS has encrypted the data before, so that it cannot be compressed"),
    "connectionattempts": _harmless("kubemux dials until it succeeds"),
    "ipqos": _harmless("kubemux does not mark packets"),
    "versionaddendum": _harmless("it only adds a comment to the version that ssh sends"),
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
"""By keyword, in lower case, as `ssh -G` prints it: those of OpenSSH 8.0 to 10, and Debian's own."""

UNKNOWN: Final = _refused(
    "this version of kubemux does not know it: take it out for this host, or ask for its support"
)
"""For an option that is not in `KEYWORDS`, because this ssh is newer."""
