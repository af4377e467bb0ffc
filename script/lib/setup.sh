# Sourced by script/server and script/test: what both need before they can begin. It knows bash 3.2, which macOS has.
#
# `root` is the project's folder; the caller has set it.

# The oldest version of the Postgres server that Herald works with; the newest that Homebrew is asked for.
oldest_postgres=15
homebrew_postgres=postgresql@17

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

# Runs a command as root: as it is, or by sudo, which asks for a password only where somebody can type one.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        sudo "$@"
    else
        give_up "A PostgreSQL server of version $oldest_postgres or newer was not found, and installing it needs root. Run this, and then this script again:
    sudo apt-get install postgresql"
    fi
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null
}

install_by_apt() {
    local newest drop_in=/etc/postgresql-common/createcluster.d/herald-none.conf
    as_root true
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
