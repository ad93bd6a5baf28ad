#!/bin/bash
# EMR bootstrap action: gives a node the Python that runs this project, as PREFIX/fruits.
#
#   install.sh TAR_URI SHA256 REGION [PREFIX]
#
# TAR_URI is a wheelhouse.tar on S3, SHA256 the digest of its bytes, REGION the bucket's, PREFIX is /opt unless given.
# AWS_ENDPOINT_URL is honoured. A release is installed beside the others and checked before PREFIX/fruits points at it,
# so a failure, or a kill at any point, leaves what was in use in use. Replay of an installed release installs nothing.
set -euo pipefail
umask 022

main() {
    [[ $# -eq 3 || $# -eq 4 ]] ||
        fail "it takes 3 or 4 arguments, not $#" "call install.sh TAR_URI SHA256 REGION [PREFIX]"
    local tar_uri=$1 sha256=$2 region=$3 prefix=${4:-/opt}
    [[ $sha256 =~ ^[0-9a-f]{64}$ ]] || fail "'$sha256' is no SHA-256" "give 64 hexadecimal digits in lower case"
    [[ $region =~ ^[a-z]{2}(-[a-z]+)+-[0-9]$ ]] || fail "'$region' is no region" "give one like eu-west-3"
    # Left to itself, the aws command may ask another region, to which a node has no route.
    export AWS_REGION=$region AWS_DEFAULT_REGION=$region
    need_to_write "$prefix" "$@"

    exec {lock}>"$prefix/.fruits-install.lock"
    flock --wait "$LOCK_WAIT_S" "$lock" ||
        fail "another installation has held $prefix for $LOCK_WAIT_S s" "see what it waits for"
    RELEASE=$prefix/fruits-${sha256:0:12} SCRATCH=$prefix/.fruits-install
    if [[ ! -e $RELEASE/$FINISHED ]]; then
        trap clean_up EXIT
        attempt "$prefix cannot be cleaned up" "see what keeps $RELEASE" rm -rf "$RELEASE" "$SCRATCH"
        attempt "$prefix cannot be written" "see that its disk has room" mkdir "$SCRATCH"
        find_python
        fetch "$tar_uri" "$sha256"
        install_offline
        check
        attempt "$RELEASE cannot be written" "see that its disk has room" touch "$RELEASE/$FINISHED"
    fi
    put_in_use "$prefix"
}

readonly FINISHED=.fruits-finished LOCK_WAIT_S=900
readonly INSTALL_PYTHON="install Python 3.11 with its venv module on this machine"
PYTHON='' RELEASE='' SCRATCH=''

need_to_write() {
    local prefix=$1
    shift
    if mkdir -p "$prefix" 2>/dev/null && [[ -w $prefix ]]; then
        return
    fi
    if [[ $EUID -eq 0 ]] || ! sudo -n true 2>/dev/null; then
        fail "$prefix cannot be written" "run it as a user who may, or who may use sudo"
    fi
    exec sudo -n --preserve-env=AWS_ENDPOINT_URL bash "${BASH_SOURCE[0]}" "$@"
}

find_python() {
    if ! command -v python3.11 >/dev/null; then
        command -v dnf >/dev/null || fail "there is no python3.11, nor dnf to install it with" "$INSTALL_PYTHON"
        attempt "dnf cannot install python3.11" "$INSTALL_PYTHON" as_root dnf install --assumeyes --quiet python3.11
    fi
    PYTHON=$(command -v python3.11) || fail "dnf has installed no python3.11" "$INSTALL_PYTHON"
}

fetch() {
    local tar_uri=$1 sha256=$2 found
    attempt "$tar_uri cannot be downloaded" "see that it exists and that this machine's role may read it" \
        aws s3 cp --only-show-errors "$tar_uri" "$SCRATCH/wheelhouse.tar"
    found=$(sha256sum "$SCRATCH/wheelhouse.tar")
    [[ ${found%% *} == "$sha256" ]] || fail "$tar_uri has the SHA-256 ${found%% *}, not $sha256" "deploy again"
    attempt "$tar_uri cannot be unpacked" "deploy again" tar -xf "$SCRATCH/wheelhouse.tar" -C "$SCRATCH"
    # Half of the space this needs, and of no more use.
    rm "$SCRATCH/wheelhouse.tar"
}

install_offline() {
    local pip=("$RELEASE/bin/python" -I -m pip --isolated --quiet --disable-pip-version-check --no-input)
    attempt "$PYTHON cannot make an environment" "$INSTALL_PYTHON" "$PYTHON" -I -m venv "$RELEASE"
    # No configuration of this machine may add another source of packages.
    export PIP_CONFIG_FILE=/dev/null
    attempt "the packages of the lock cannot be installed" "build the wheelhouse for $(uname -m) and deploy again" \
        "${pip[@]}" install --no-index --find-links "$SCRATCH/wheels" --only-binary :all: \
        --require-hashes --requirement "$SCRATCH/requirements-cluster.lock"
    attempt "the project's wheel cannot be installed" "build the wheelhouse again and deploy it" \
        "${pip[@]}" install --no-index --no-deps "$SCRATCH"/project/*.whl
}

# EMR runs bootstrap actions before it installs Spark: what needs Spark is imported only where it is there already.
check() {
    attempt "the installed packages do not work" "see that the lock fits the sources, and deploy again" \
        "$RELEASE/bin/python" -I -c '
import importlib, importlib.util, pathlib, sys

for module in ("numpy", "ai_edge_litert.interpreter", "boto3", "matplotlib.figure", "features.image", "store.tables.commits",
               "store.objects.landing", "bootstrap.weights.featurizer", "batch.refit.scree", "ops.cli.main"):
    importlib.import_module(module)
for package in ("tensorflow", "pyspark"):
    if importlib.util.find_spec(package) is not None:
        sys.exit(f"{package} is installed, and must not be")
spark = sorted(map(str, pathlib.Path(sys.argv[1], "python", "lib").glob("*.zip")))
if spark:
    sys.path[:0] = spark
    for module in ("streaming.executor.task", "streaming.service", "batch.refit.refit", "batch.reproject",
        "batch.refeaturize.refeaturize"):
        importlib.import_module(module)
' "${SPARK_HOME:-/usr/lib/spark}"
}

put_in_use() {
    local prefix=$1 link=$1/fruits before release
    before=$(readlink "$link" || true)
    [[ $before != "${RELEASE##*/}" ]] || return 0
    # A rename takes the place of the old link at once; making a link does not.
    ln -sfn "${RELEASE##*/}" "$prefix/.fruits-link"
    attempt "$link cannot be replaced" "move away what is there" mv -fT "$prefix/.fruits-link" "$link"
    echo "fruits install: $link is now ${RELEASE##*/}"
    for release in "$prefix"/fruits-????????????; do
        [[ $release == "$RELEASE" || ${release##*/} == "$before" ]] || rm -rf "$release"
    done
}

clean_up() {
    rm -rf "$SCRATCH"
    [[ -e $RELEASE/$FINISHED ]] || rm -rf "$RELEASE"
}

as_root() {
    if [[ $EUID -eq 0 ]]; then "$@"; else sudo -n "$@"; fi
}

# Runs a command without a word, or ends with a reason, what the command said last, and what to do.
attempt() {
    local reason=$1 remedy=$2 said
    shift 2
    said=$("$@" 2>&1) || fail "$reason (${said##*$'\n'})" "$remedy"
}

fail() {
    printf 'fruits install: %s; %s\n' "$1" "$2" >&2
    exit 1
}

main "$@"
