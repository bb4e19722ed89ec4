#!/usr/bin/env bash
# The Debian packages of the real parts that tests run: parts.sh PROGRAM:PACKAGE...
#
# Those whose program is missing are installed if we may, after they have been named; a person at a terminal is asked. Services that
# come with them are neither started nor enabled: Debian's postinst scripts would do both. A program that is there needs no package:
# kubectl comes in many that conflict with each other.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d

missing=()
for part; do command -v "${part%%:*}" >/dev/null || missing+=("${part##*:}"); done
(( ${#missing[@]} )) || exit 0
skipped="tests that need them are skipped"
command -v apt-get >/dev/null || { echo "missing, and not on Debian: ${missing[*]}: $skipped"; exit 0; }
if (( EUID != 0 )) && ! sudo -n true 2>/dev/null; then
  echo "not installed (run as root, or: sudo apt install ${missing[*]}): $skipped"
  exit 0
fi
if [[ ${PARTS_NAMED:-} != yes ]]; then
  echo "installing Debian packages, starting and enabling none of their services: ${missing[*]}"
  if [[ -t 0 && ${CI:-} != true ]]; then
    read -r -p "go on? [Y/n] " answer || answer=no
    [[ ${answer,,} =~ ^(y|yes|)$ ]] || { echo "not installed: $skipped"; exit 0; }
  fi
fi
(( EUID == 0 )) || exec sudo -n env PARTS_NAMED=yes "$0" "$@"

# What starts services asks this program first (deb-systemd-invoke(1), invoke-rc.d(8)): 101 is "no". Whoever has one gets it back.
exec 9>/run/lock/kubemux-parts
flock 9
give_back() {
  if [[ -e $policy.before ]]; then mv "$policy.before" "$policy"; else rm -f "$policy"; fi
}
[[ ! -e $policy ]] || mv "$policy" "$policy.before"
trap give_back EXIT
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

# An enabled service is a link; so is a runlevel of one that has no unit.
enabled() { find /etc/systemd /etc/rc?.d -type l 2>/dev/null | sort; }

apt-get update -qq </dev/null || echo "apt-get update failed: trying with the package lists there are"
for package in "${missing[@]}"; do
  before=$(enabled)
  apt-get install -y -qq --no-install-recommends "$package" </dev/null >/dev/null ||
    echo "could not install $package: tests that need it are skipped"
  [[ $package != systemd ]] || continue # what that enables is not a service of its own, but the system
  comm -13 <(echo "$before") <(enabled) | while read -r link; do
    case $link in
      /etc/rc?.d/*) name=${link##*/[SK][0-9][0-9]}; update-rc.d "$name" disable ;;
      *) rm -f "$link" ;;
    esac
  done
done
