//! A page that the gateway serves from a folder: what is in it, what is not to be had, and what browsers are told about it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use herald::edge::WebRoot;
use tempfile::TempDir;

use crate::support::{
    gateway::{self, Gateway},
    http::{Answer, ask, fetch},
    process::Process,
};

const PAGE: &str = "<!doctype html><title>messages</title>";
const SCRIPT: &str = "console.log('messages')";
/// Something that nobody may see.
const SECRET: &str = "a secret of the machine";

/// Nothing of the page needs a database, so that there is none: the gateway waits for it.
const NO_DATABASE: &str = "postgres://127.0.0.1:1/none";

/// A folder with a built page, in another folder with secrets, and a gateway that serves it.
struct Stage {
    outside: TempDir,
    gateway: Gateway,
}

impl Stage {
    async fn new() -> Self {
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir_all(outside.path().join("page/assets")).unwrap();
        fs::write(outside.path().join("secret.txt"), SECRET).unwrap();
        fs::create_dir(outside.path().join("page-beside")).unwrap();
        fs::write(outside.path().join("page-beside/secret.txt"), SECRET).unwrap();
        for (name, content) in [
            ("index.html", PAGE),
            ("favicon.svg", "<svg xmlns='http://www.w3.org/2000/svg'/>"),
            ("app.webmanifest", "{}"),
            ("assets/app-1a2b3c4d.js", SCRIPT),
            ("assets/app-5e6f.css", "body{}"),
        ] {
            fs::write(outside.path().join("page").join(name), content).unwrap();
        }
        let page = outside.path().join("page");
        Self {
            gateway: serving(&page).await,
            outside,
        }
    }

    fn page(&self) -> PathBuf {
        self.outside.path().join("page")
    }

    async fn fetch(&self, target: &str) -> Answer {
        fetch(self.gateway.address(), target).await
    }

    async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        ask(self.gateway.address(), method, target, headers).await
    }
}

async fn serving(page: &Path) -> Gateway {
    let mut config = gateway::config(NO_DATABASE);
    config.web_root = Some(WebRoot::open(page).unwrap());
    Gateway::start_on("127.0.0.1:0".parse().unwrap(), config).await
}

/// What every answer from the folder has.
fn check_headers(answer: &Answer) {
    let policy = answer.header("content-security-policy").unwrap();
    let directives: Vec<_> = policy.split("; ").collect();
    for directive in [
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "img-src 'self' https: data:",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(directives.contains(&directive), "{directive}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("accept-ranges", "none"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}: {answer:?}");
    }
    let permissions = answer.header("permissions-policy").unwrap();
    assert!(permissions.contains("camera=()"), "{permissions}");
    let varies = answer.all("vary").join(",");
    assert!(varies.contains("accept-encoding"), "{answer:?}");
    assert!(answer.header("x-request-id").is_some());
}

#[tokio::test]
async fn a_page_and_its_files_are_served_and_kept_as_long_as_they_may_be() {
    const KINDS: [(&str, &str, &str, &str); 5] = [
        ("/", PAGE, "text/html; charset=utf-8", "no-cache"),
        (
            "/?conversation=abc__general&as=alice",
            PAGE,
            "text/html; charset=utf-8",
            "no-cache",
        ),
        ("/app.webmanifest", "{}", "application/manifest+json", "no-cache"),
        (
            "/assets/app-1a2b3c4d.js",
            SCRIPT,
            "text/javascript; charset=utf-8",
            "public, max-age=31536000, immutable",
        ),
        (
            "/assets/app-5e6f.css",
            "body{}",
            "text/css; charset=utf-8",
            "public, max-age=31536000, immutable",
        ),
    ];
    let stage = Stage::new().await;
    for (target, content, kind, caching) in KINDS {
        let answer = stage.fetch(target).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, content), "{target}");
        assert_eq!(answer.header("content-type"), Some(kind), "{target}");
        assert_eq!(answer.header("cache-control"), Some(caching), "{target}");
        check_headers(&answer);

        let head = stage.ask("HEAD", target, &[]).await;
        let length = content.len().to_string();
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some(length.as_str()))
        );
        check_headers(&head);

        for (condition, value) in [
            ("If-None-Match", answer.header("etag").unwrap()),
            ("If-Modified-Since", answer.header("last-modified").unwrap()),
        ] {
            let same = stage.ask("GET", target, &[(condition, value)]).await;
            assert_eq!(
                (same.status, same.body.as_str()),
                (304, ""),
                "{condition} {target}"
            );
            assert_eq!(same.header("etag"), answer.header("etag"));
            assert_eq!(same.header("cache-control"), Some(caching));
            check_headers(&same);
        }
        let changed = [("If-None-Match", "\"another\"")];
        assert_eq!(stage.ask("GET", target, &changed).await.status, 200);
        // A part is never answered: the whole is small, and surely of one piece.
        let part = stage.ask("GET", target, &[("Range", "bytes=0-1")]).await;
        assert_eq!((part.status, part.body.as_str()), (200, content));
    }
    let lost = [("If-Match", "\"another\"")];
    let lost = stage.ask("GET", "/assets/app-5e6f.css", &lost).await;
    assert_eq!(
        (lost.status, lost.header("cache-control")),
        (412, Some("no-cache"))
    );
    stage.gateway.stop().await;
}

#[tokio::test]
async fn other_methods_are_refused_and_unknown_paths_are_problems_as_ever() {
    let stage = Stage::new().await;
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        for target in ["/", "/favicon.svg", "/assets/app-5e6f.css"] {
            let refused = stage.ask(method, target, &[]).await;
            refused.problem(405);
            assert_eq!(refused.header("allow"), Some("GET, HEAD"), "{method} {target}");
        }
        stage.ask(method, "/nothing", &[]).await.problem(404);
    }
    for unknown in [
        "/nothing",
        "/conversations/1",
        "/assets/app-0.js",
        "/assets",
        "/assets/",
        "/favicon.svg/",
    ] {
        let answer = stage.fetch(unknown).await;
        assert_eq!(answer.problem(404), "There is nothing at this path.", "{unknown}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{unknown}");
    }
}

#[tokio::test]
async fn nothing_outside_the_folder_and_nothing_hidden_can_be_had() {
    let stage = Stage::new().await;
    let (page, outside) = (stage.page(), stage.outside.path());
    let secret = outside.join("secret.txt");
    fs::write(page.join(".env"), SECRET).unwrap();
    fs::create_dir(page.join(".git")).unwrap();
    fs::write(page.join(".git/config"), SECRET).unwrap();
    symlink(&secret, page.join("absolute.txt")).unwrap();
    symlink("../secret.txt", page.join("relative.txt")).unwrap();
    symlink("../page-beside", page.join("beside")).unwrap();
    symlink("..", page.join("up")).unwrap();
    symlink(".env", page.join("shown.txt")).unwrap();
    symlink("loop", page.join("loop")).unwrap();
    symlink(&secret, page.join("assets/app-5e6f.css.br")).unwrap();
    symlink("assets/app-1a2b3c4d.js", page.join("inside.js")).unwrap();
    let made = Command::new("mkfifo").arg(page.join("pipe")).status().unwrap();
    assert!(made.success());

    let long = format!("/{}", "a".repeat(300));
    let deep = format!("/{}x", "a/".repeat(3000));
    let absolute = format!("/{}", secret.display());
    let targets = [
        "/../secret.txt",
        "/assets/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/assets/..%2f..%2fsecret.txt",
        "/..%5csecret.txt",
        "/%252e%252e/secret.txt",
        "/....//secret.txt",
        "//../secret.txt",
        "/%2fetc%2fpasswd",
        "//etc/passwd",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/./.env",
        "/absolute.txt",
        "/relative.txt",
        "/beside/secret.txt",
        "/up/secret.txt",
        "/shown.txt",
        "/loop",
        "/pipe",
        "/index.html%00.txt",
        "/%ff",
        "/page-beside/secret.txt",
        &long,
        &deep,
        &absolute,
    ];
    for target in targets {
        for method in ["GET", "POST"] {
            let answer = stage.ask(method, target, &[]).await;
            answer.problem(404);
            let inside = outside.to_str().unwrap();
            assert!(!format!("{answer:?}").contains(inside), "{target}: {answer:?}");
        }
    }
    // A compressed sibling that leads out is not taken either, and a link within the folder is one of its files.
    let compressed = [("Accept-Encoding", "br")];
    let sheet = stage.ask("GET", "/assets/app-5e6f.css", &compressed).await;
    assert_eq!((sheet.status, sheet.body.as_str()), (200, "body{}"));
    assert_eq!(stage.fetch("/inside.js").await.body, SCRIPT);
}

#[tokio::test]
async fn the_gateways_own_paths_win() {
    let stage = Stage::new().await;
    for name in [
        "healthz",
        "readyz",
        "metrics",
        "v1/socket",
        "v1/x",
        "realtime/v1/x",
        "socket/x",
        "api/x",
        "demo/people",
    ] {
        let file = stage.page().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, PAGE).unwrap();
        for target in [
            format!("/{name}"),
            format!("//{name}"),
            format!("/%{:x}{}", name.as_bytes()[0], &name[1..]),
        ] {
            let answer = stage.fetch(&target).await;
            assert!(!answer.body.contains(PAGE), "{target}: {answer:?}");
        }
    }
    assert_eq!(stage.fetch("/healthz").await.body, "alive\n");
    stage.fetch("/v1/x").await.problem(404);
    stage.fetch("/v1/socket").await.problem(401);
}

#[tokio::test]
async fn compressed_siblings_are_sent_to_those_who_take_them() {
    let stage = Stage::new().await;
    let script = stage.page().join("assets/app-1a2b3c4d.js");
    for suffix in ["br", "gz"] {
        fs::write(script.with_extension(format!("js.{suffix}")), suffix).unwrap();
    }
    for (accepted, encoding, body) in [
        ("gzip, deflate, br, zstd", Some("br"), "br"),
        ("gzip", Some("gzip"), "gz"),
        ("br;q=0, gzip;q=0.5", Some("gzip"), "gz"),
        ("zstd", None, SCRIPT),
        ("identity", None, SCRIPT),
    ] {
        let headers = [("Accept-Encoding", accepted)];
        let answer = stage.ask("GET", "/assets/app-1a2b3c4d.js", &headers).await;
        assert_eq!(
            (answer.header("content-encoding"), answer.body.as_str()),
            (encoding, body),
            "{accepted}"
        );
        assert_eq!(
            answer.header("content-type"),
            Some("text/javascript; charset=utf-8")
        );
        check_headers(&answer);
        // The page has no siblings.
        assert_eq!(stage.ask("GET", "/", &headers).await.body, PAGE);
    }
}

#[tokio::test]
async fn a_page_that_is_put_in_place_of_another_is_served_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new, current) = (
        folder.path().join("1"),
        folder.path().join("2"),
        folder.path().join("current"),
    );
    for (release, content) in [(&old, "the old one"), (&new, "the new one")] {
        fs::create_dir(release).unwrap();
        let index = release.join("index.html");
        fs::write(&index, content).unwrap();
        // As builds do that can be reproduced.
        let file = fs::File::options().write(true).open(index).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1))
            .unwrap();
    }
    symlink(&old, &current).unwrap();
    let gateway = serving(&current).await;
    let before = fetch(gateway.address(), "/").await;
    assert_eq!(before.body, "the old one");
    symlink(&new, folder.path().join("next")).unwrap();
    fs::rename(folder.path().join("next"), &current).unwrap();
    let tag = before.header("etag").unwrap();
    let after = ask(gateway.address(), "GET", "/", &[("If-None-Match", tag)]).await;
    assert_eq!(after.body, "the new one");
    fs::remove_dir_all(&new).unwrap();
    fetch(gateway.address(), "/").await.problem(404);
}

#[tokio::test]
async fn without_a_folder_there_is_no_page() {
    let config = gateway::config(NO_DATABASE);
    let gateway = Gateway::start_on("127.0.0.1:0".parse().unwrap(), config).await;
    for target in ["/", "/index.html", "/demo/people"] {
        fetch(gateway.address(), target).await.problem(404);
    }
    ask(gateway.address(), "POST", "/", &[]).await.problem(404);
    ask(gateway.address(), "POST", "/demo/token", &[])
        .await
        .problem(404);
}

#[tokio::test]
async fn serve_takes_the_folder_and_refuses_one_without_a_page() {
    let stage = Stage::new().await;
    let page = stage.page();
    let process = Process::serve(NO_DATABASE, &[("HERALD_WEB_ROOT", page.to_str().unwrap())]);
    let address = process.address().await;
    assert_eq!(fetch(address, "/").await.body, PAGE);
    fetch(address, "/demo/people").await.problem(404);
    ask(address, "POST", "/demo/token", &[]).await.problem(404);

    let missing = stage.outside.path().join("nowhere");
    let outside = stage.outside.path();
    for (folder, told) in [
        (missing.as_path(), "does not exist"),
        (outside, "has no index.html"),
    ] {
        let folder = folder.to_str().unwrap();
        let mut refused = Process::serve(NO_DATABASE, &[("HERALD_WEB_ROOT", folder)]);
        assert_eq!(refused.ended().await.code(), Some(64));
        let log = refused.log();
        let expected = format!("HERALD_WEB_ROOT: {folder} {told}");
        assert!(log.contains(&expected) && log.contains("npm run build"), "{log}");
    }
    let unset = Process::serve(NO_DATABASE, &[("HERALD_WEB_ROOT", "")]);
    fetch(unset.address().await, "/").await.problem(404);
}
