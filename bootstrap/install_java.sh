#!/bin/sh
# Installs a Java for Spark where apt may; anywhere else it does nothing, and the caller says what is missing.
set -eu
command -v apt-get >/dev/null || exit 1
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || exit 1
    as_root="sudo -n"
fi
echo "Installing Java 17 with apt."
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends openjdk-17-jre-headless >/dev/null
