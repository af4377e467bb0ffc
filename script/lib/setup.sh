# Sourced by the scripts in this folder's parent: what they need before they can begin. It knows bash 3.2, which macOS has.
#
# `root` is the project's folder; the caller has set it.

# The oldest version of the Postgres server that Herald works with; the newest that Homebrew is asked for.
oldest_postgres=15
homebrew_postgres=postgresql@17

# The oldest Python that runs what script/lib/fuzz-requirements.txt and script/lib/autobahn-requirements.txt name.
oldest_python=3.11

# The oldest Node that runs the clients of Supabase Realtime in tests/supabase and builds the page in web.
oldest_node=20

began=$SECONDS

# Announces a step, with the seconds since the script began.
step() {
    printf '==> %s (%d s)\n' "$1" "$((SECONDS - began))"
}

# Gives up, and says what to do.
give_up() {
    printf '%s\n' "$1" >&2
    exit 1
}

# Rust, by PATH or where rustup puts it.
require_cargo() {
    if ! command -v cargo >/dev/null 2>&1 && [ -x "${HOME:-}/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
        export PATH
    fi
    command -v cargo >/dev/null 2>&1 || give_up 'cargo was not found. Install Rust with
    curl --proto =https --tlsv1.2 -sSf https://sh.rustup.rs | sh
and run this again in a new shell.'
    command -v cc >/dev/null 2>&1 || give_up 'A C compiler was not found; one of the libraries needs it. Install it with
    apt-get install build-essential     (Debian, Ubuntu)
    dnf install gcc                     (Fedora)
    xcode-select --install              (macOS)'
}

# A C++ compiler, by which libFuzzer is built. Where build-essential gave the C compiler, this one came with it.
require_cxx_compiler() {
    # Whoever names one knows it, and may name it with arguments.
    if [ -n "${CXX:-}" ] || command -v c++ >/dev/null 2>&1; then return; fi
    if command -v apt-get >/dev/null 2>&1; then
        require_root_for 'A C++ compiler' g++
        step 'installing g++ by apt'
        apt_get update
        apt_get install --no-install-recommends g++
    fi
    command -v c++ >/dev/null 2>&1 || give_up 'A C++ compiler was not found; libFuzzer needs it. Install it, and run this again:
    apt-get install g++                 (Debian, Ubuntu; build-essential has it)
    dnf install gcc-c++                 (Fedora)
    apk add g++                         (Alpine)
    pacman -S gcc                       (Arch)
    xcode-select --install              (macOS)'
}

# Prints every `postgres` that src/dev/binaries.rs would consider.
postgres_candidates() {
    command -v postgres || true
    if command -v pg_config >/dev/null 2>&1; then printf '%s/postgres\n' "$(pg_config --bindir)"; fi
    for candidate in /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres \
        /opt/homebrew/opt/postgresql*/bin/postgres /usr/local/opt/postgresql*/bin/postgres \
        /home/linuxbrew/.linuxbrew/opt/postgresql*/bin/postgres \
        /Applications/Postgres.app/Contents/Versions/*/bin/postgres /usr/local/pgsql/bin/postgres; do
        printf '%s\n' "$candidate"
    done
}

# Succeeds if one of them is new enough, and prints it.
find_postgres() {
    local candidate version
    while IFS= read -r candidate; do
        [ -x "$candidate" ] || continue
        version=$("$candidate" --version 2>/dev/null) || continue
        version=${version#*(PostgreSQL) }
        version=${version%%[!0-9]*}
        if [ "${version:-0}" -ge "$oldest_postgres" ]; then
            printf 'PostgreSQL %s, %s\n' "$version" "$candidate"
            return 0
        fi
    done < <(postgres_candidates)
    return 1
}

require_postgres() {
    local found
    if found=$(find_postgres); then
        step "Postgres server: $found"
        return
    fi
    if command -v apt-get >/dev/null 2>&1; then
        install_by_apt
    elif command -v brew >/dev/null 2>&1 && [ "$(id -u)" -ne 0 ]; then
        step "installing $homebrew_postgres by Homebrew"
        brew install "$homebrew_postgres" </dev/null
    else
        give_up "A PostgreSQL server of version $oldest_postgres or newer was not found. Install it, and run this again:
    dnf install postgresql-server       (Fedora; on RHEL see https://www.postgresql.org/download/linux/redhat/)
    apk add postgresql                  (Alpine)
    pacman -S postgresql                (Arch)
    brew install $homebrew_postgres     (macOS, as an ordinary user; Homebrew: https://brew.sh)
It need not be started, nor does anything have to be set up: Herald makes a private one of its own."
    fi
    found=$(find_postgres) || give_up 'Postgres was installed, but not where it is looked for.
Put the folder that holds its program "postgres" on PATH, and run this again.'
    step "Postgres server: $found"
}

# Whether something can be done as root: by root itself, or by sudo, which asks for a password only where somebody can type one.
can_be_root() {
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; }
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Gives up unless apt can be used. $1 is what is missing, $2 the package that has it.
require_root_for() {
    can_be_root || give_up "$1 was not found, and installing it needs root. Run this, and then this script again:
    sudo apt-get install $2"
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null
}

install_by_apt() {
    local newest drop_in=/etc/postgresql-common/createcluster.d/herald-none.conf
    require_root_for "A PostgreSQL server of version $oldest_postgres or newer" postgresql
    step 'updating the list of packages'
    apt_get update
    newest=$(apt-cache search --names-only '^postgresql-[0-9]+$' | sed -n 's/^postgresql-\([0-9]*\) .*/\1/p' | sort -n | tail -1)
    if [ "${newest:-0}" -lt "$oldest_postgres" ]; then
        give_up "This system's packages have PostgreSQL ${newest:-none}, and Herald needs $oldest_postgres or newer. Add the packages of the
PostgreSQL project, and run this again:
    sudo apt-get install postgresql-common
    sudo /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y"
    fi
    step "installing postgresql-$newest by apt"
    # Debian makes and starts a server with each installation, which nobody here asked for; Herald runs a private one. The drop-in
    # goes again, so that whoever wants such a server later gets it in the usual way.
    as_root mkdir -p "${drop_in%/*}"
    printf 'create_main_cluster = false\n' | as_root tee "$drop_in" >/dev/null
    # shellcheck disable=SC2064 # The path is to be put in now; the variable is gone by then.
    trap "as_root rm -f '$drop_in'" EXIT
    apt_get install --no-install-recommends "postgresql-$newest"
    as_root rm -f "$drop_in"
    trap - EXIT
}

# PgBouncer, which the tests put in front of the gateway's pool. It is found by PATH, or where Debian and Homebrew put it, which an
# ordinary user's PATH need not have; then it is put there for what is started from here.
find_pgbouncer() {
    local candidate
    for candidate in "$(command -v pgbouncer || true)" /usr/sbin/pgbouncer \
        /opt/homebrew/opt/pgbouncer/bin/pgbouncer /usr/local/opt/pgbouncer/bin/pgbouncer \
        /home/linuxbrew/.linuxbrew/opt/pgbouncer/bin/pgbouncer; do
        if [ -x "$candidate" ]; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

require_pgbouncer() {
    local found
    if ! found=$(find_pgbouncer); then
        if command -v apt-get >/dev/null 2>&1; then
            install_pgbouncer_by_apt
        elif command -v brew >/dev/null 2>&1 && [ "$(id -u)" -ne 0 ]; then
            step 'installing pgbouncer by Homebrew'
            brew install pgbouncer </dev/null
        else
            give_up "PgBouncer was not found; the tests need it. Install it, and run this again:
    dnf install pgbouncer               (Fedora)
    apk add pgbouncer                   (Alpine)
    pacman -S pgbouncer                 (Arch)
    brew install pgbouncer              (macOS, as an ordinary user; Homebrew: https://brew.sh)
It need not be started, nor does anything have to be set up: each test that needs one runs one of its own."
        fi
        found=$(find_pgbouncer) || give_up 'PgBouncer was installed, but not where it is looked for.
Put the folder that holds its program "pgbouncer" on PATH, and run this again.'
    fi
    step "PgBouncer: $found"
    PATH="$PATH:${found%/*}"
    export PATH
}

install_pgbouncer_by_apt() {
    require_root_for PgBouncer pgbouncer
    step 'installing pgbouncer by apt'
    apt_get update
    # Debian starts a service with the installation, and again whenever the machine starts, which nobody here asked for. The first is
    # asked of this program (invoke-rc.d(8)), which the machine may have already; it is put back whatever happens.
    forbid_services pgbouncer
    apt_get install --no-install-recommends pgbouncer
    as_root update-rc.d pgbouncer disable >/dev/null 2>&1
    allow_services
}

policy=/usr/sbin/policy-rc.d

# Until `allow_services`, or until this script ends, packages do not start the service $1.
forbid_services() {
    trap allow_services EXIT
    # What a run that was killed left behind is undone first.
    if [ -e "$policy.before-herald" ]; then
        as_root mv -f "$policy.before-herald" "$policy"
    elif grep -qs "Put here by Herald's script/test" "$policy"; then
        as_root rm -f "$policy"
    fi
    if [ -e "$policy" ]; then as_root cp -p "$policy" "$policy.before-herald"; fi
    as_root tee "$policy.of-herald" >/dev/null <<EOF
#!/bin/sh
# Put here by Herald's script/test for the time of one installation.
if [ "\$1" = $1 ]; then exit 101; fi
if [ -x $policy.before-herald ]; then exec $policy.before-herald "\$@"; fi
exit 104
EOF
    as_root chmod 0755 "$policy.of-herald"
    as_root mv -f "$policy.of-herald" "$policy"
}

allow_services() {
    if [ -e "$policy.before-herald" ]; then
        as_root mv -f "$policy.before-herald" "$policy"
    else
        as_root rm -f "$policy"
    fi
    trap - EXIT
}

# Sets `python` to a Python that is new enough and can make virtual environments.
require_python() {
    local package=
    if python=$(find_python); then return; fi
    if command -v apt-get >/dev/null 2>&1; then
        require_root_for "Python $oldest_python or newer with the module venv" python3-venv
        step 'updating the list of packages'
        apt_get update
        package=$(apt-cache search --names-only '^python3\.[0-9]+-venv$' | sed -n 's/^python3\.\([0-9]*\)-venv .*/\1/p' | sort -n | tail -1)
        if [ "${package:-0}" -ge "${oldest_python#*.}" ]; then
            step "installing python3.$package-venv by apt"
            apt_get install --no-install-recommends "python3.$package-venv"
        fi
    elif command -v brew >/dev/null 2>&1 && [ "$(id -u)" -ne 0 ]; then
        step 'installing python3 by Homebrew'
        brew install python3 </dev/null
    fi
    python=$(find_python) || give_up "Python $oldest_python or newer with the modules venv and ensurepip was not found; script/${0##*/} needs it. Install it, and
run this again:
    dnf install python3.12              (Fedora, RHEL)
    apk add python3                     (Alpine)
    pacman -S python                    (Arch)
    brew install python3                (macOS)
On an older Debian or Ubuntu, install one by pyenv (https://github.com/pyenv/pyenv) and put it on PATH as python3."
}

find_python() {
    local candidate
    # Homebrew's and pyenv's folders come by PATH, and need not stand first there.
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3 /opt/homebrew/bin/python3 \
        /usr/local/bin/python3 /home/linuxbrew/.linuxbrew/bin/python3; do
        if "$candidate" -c "import ensurepip, sys, venv; sys.exit(sys.version_info < (${oldest_python%.*}, ${oldest_python#*.}))" \
            >/dev/null 2>&1; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# Fills the virtual environment in the folder $1 with what the file $2 names, called $3, unless it has been filled from that file by
# this Python. It needs require_python.
install_python_packages() {
    local environment=$1 requirements=$2 what=$3 made_of
    made_of="$("$python" -VV)
$(cat "$requirements")"
    if [ "$(cat "$environment/made-of" 2>/dev/null)" = "$made_of" ] && "$environment/bin/python" -c '' 2>/dev/null; then
        return
    fi
    step "installing $what from PyPI"
    rm -rf "$environment"
    "$python" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements" ||
        give_up "$what could not be installed; see above. pip follows the settings of its own for an index (PIP_INDEX_URL, pip.conf)."
    # The last thing, so that an installation that was interrupted is not taken for a whole one.
    printf '%s\n' "$made_of" >"$environment/made-of"
}

# Node and npm, which run and install the clients of Supabase Realtime that the tests drive, and build the page.
require_node() {
    local found version
    if ! found=$(find_node); then
        if command -v apt-get >/dev/null 2>&1; then
            install_node_by_apt
        elif command -v brew >/dev/null 2>&1 && [ "$(id -u)" -ne 0 ]; then
            step 'installing node by Homebrew'
            brew install node </dev/null
        else
            give_up "Node $oldest_node or newer with npm was not found; script/${0##*/} needs it. Install it, and run this again:
    dnf install nodejs npm              (Fedora)
    apk add nodejs npm                  (Alpine)
    pacman -S nodejs npm                (Arch)
    brew install node                   (macOS, as an ordinary user; Homebrew: https://brew.sh)"
        fi
        found=$(find_node) || give_up 'Node was installed, but not where it is looked for.
Put the folder that holds its programs "node" and "npm" on PATH, and run this again.'
    fi
    if [ "$(command -v node || true)" != "$found" ]; then
        PATH="${found%/*}:$PATH"
        export PATH
    fi
    version=$("$found" --version)
    step "Node ${version#v}, $found"
}

# Prints a Node that is new enough and has npm beside it or on PATH.
find_node() {
    local candidate version
    for candidate in "$(command -v node || true)" /usr/bin/node /usr/local/bin/node /opt/homebrew/bin/node \
        /home/linuxbrew/.linuxbrew/bin/node; do
        [ -x "$candidate" ] || continue
        version=$("$candidate" --version 2>/dev/null) || continue
        version=${version#v}
        version=${version%%.*}
        case $version in '' | *[!0-9]*) continue ;; esac
        [ "$version" -ge "$oldest_node" ] || continue
        PATH="${candidate%/*}:$PATH" npm --version >/dev/null 2>&1 || continue
        printf '%s\n' "$candidate"
        return 0
    done
    return 1
}

install_node_by_apt() {
    local newest
    require_root_for "Node $oldest_node or newer with npm" 'nodejs npm'
    step 'updating the list of packages'
    apt_get update
    newest=$(apt-cache policy nodejs | sed -n 's/^ *Candidate: *\([0-9]*:\)\{0,1\}\([0-9]*\).*/\2/p')
    if [ "${newest:-0}" -lt "$oldest_node" ]; then
        give_up "This system's packages have Node ${newest:-none}, and script/${0##*/} needs $oldest_node or newer. Install one from
https://nodejs.org, or by a version manager (https://github.com/nvm-sh/nvm), put it on PATH, and run this again."
    fi
    step "installing Node $newest by apt"
    apt_get install --no-install-recommends nodejs
    # Some packages of Node have npm inside, and must not be given another one.
    if ! find_node >/dev/null; then apt_get install --no-install-recommends npm; fi
}

# Chromium, in which the tests look at the page. It is told to them by HERALD_CHROMIUM, which may name another one.
require_chromium() {
    local found
    if ! found=$(find_chromium); then
        if command -v apt-get >/dev/null 2>&1; then
            require_root_for Chromium chromium
            step 'installing chromium by apt'
            apt_get update
            apt_get install --no-install-recommends chromium
        fi
        found=$(find_chromium) || give_up 'Chromium was not found; the tests of the page need it. Install it, and run this again:
    apt-get install chromium            (Debian)
    dnf install chromium                (Fedora)
    apk add chromium                    (Alpine)
    pacman -S chromium                  (Arch)
    brew install --cask google-chrome   (macOS)
Elsewhere, set HERALD_CHROMIUM to the program of a Chromium or Chrome.'
    fi
    export HERALD_CHROMIUM="$found"
    step "Chromium: $found"
}

find_chromium() {
    local candidate
    for candidate in "${HERALD_CHROMIUM:-}" "$(command -v chromium || true)" "$(command -v chromium-browser || true)" \
        "$(command -v google-chrome || true)" /Applications/Chromium.app/Contents/MacOS/Chromium \
        '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'; do
        if [ -n "$candidate" ] && [ -x "$candidate" ]; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

# Fills tests/supabase/node_modules.
install_supabase_clients() {
    install_npm_packages "$root/tests/supabase" 'the clients of Supabase Realtime'
}

# Fills benches/node/node_modules.
install_node_peer() {
    install_npm_packages "$root/benches/node" 'what people use with Node in place of Herald'
}

# Builds the page into web/app/dist, the folder that `herald serve` and `herald dev` take. It needs Node.
build_page() {
    install_npm_packages "$root/web" 'what the page is built with'
    step 'building the page'
    (cd "$root/web" && npm run build --loglevel=error </dev/null) || give_up 'The page could not be built; see above.'
}

# Fills the node_modules of the folder $1 with what its lock names, called $2, unless it has been filled from this lock. No package
# may run a program of its own while it is installed.
install_npm_packages() {
    local folder=$1 what=$2 cache
    if cmp -s "$folder/package-lock.json" "$folder/node_modules/made-of"; then return; fi
    step "installing $what from the npm registry"
    cache=$(npm config get cache)
    if ! can_be_made "$cache"; then cache=$root/target/npm; fi
    (cd "$folder" && npm ci --ignore-scripts --loglevel=error --no-progress --cache "$cache" </dev/null >/dev/null) ||
        give_up "npm could not install $what; see above. It follows the settings of its own for a registry
(NPM_CONFIG_REGISTRY, .npmrc)."
    # The last thing, so that an installation that was interrupted is not taken for a whole one.
    cp "$folder/package-lock.json" "$folder/node_modules/made-of"
}

# Whether a folder can be written, or made.
can_be_made() {
    local folder=$1
    while [ -n "$folder" ] && [ ! -e "$folder" ]; do folder=${folder%/*}; done
    [ -n "$folder" ] && [ -d "$folder" ] && [ -w "$folder" ]
}
