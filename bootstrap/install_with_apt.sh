#!/bin/sh
# Installs packages where apt may; elsewhere it does nothing, and the caller says what is missing.
#   install_with_apt.sh NAME PACKAGE ...
set -eu
command -v apt-get >/dev/null || exit 1
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || exit 1
    as_root="sudo -n"
fi
echo "Installing $1 with apt."
shift
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
