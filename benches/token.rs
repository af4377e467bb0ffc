//! What checking one token costs, which every connection and every HTTP request pays once.
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has nothing to tell"
)]

use std::{
    fs,
    hint::black_box,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use criterion::{Criterion, criterion_group, criterion_main};
use herald::{
    auth::{AuthConfig, JwksSource, Secret, Token, Verifier},
    tasks::Tasks,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use rcgen::KeyPair;
use serde_json::json;

const SECRET: &str = "a secret of the benchmark, which is long enough";

fn token_check(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let keys = [
        (
            Algorithm::RS256,
            EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap(),
        ),
        (
            Algorithm::ES256,
            EncodingKey::from_ec_pem(p256.serialize_pem().as_bytes()).unwrap(),
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let jwks: Vec<Jwk> = keys
        .iter()
        .map(|(algorithm, key)| Jwk::from_encoding_key(key, *algorithm).unwrap())
        .collect();
    fs::write(&file, json!({"keys": jwks}).to_string()).unwrap();
    let config = AuthConfig {
        secrets: Some(Secret::new(SECRET).unwrap().into()),
        jwks: Some(JwksSource::File(file)),
        ..AuthConfig::default()
    };
    let verifier = runtime.block_on(Verifier::start(config, &Tasks::new())).unwrap();

    let mut group = criterion.benchmark_group("token check");
    let shared = [(Algorithm::HS256, EncodingKey::from_secret(SECRET.as_bytes()))];
    for (algorithm, key) in shared.iter().chain(&keys) {
        let token = token(*algorithm, key);
        group.bench_function(format!("{algorithm:?}"), |bencher| {
            bencher.iter(|| verifier.verify(black_box(&token)).unwrap());
        });
    }
    group.finish();
}

/// A token of the size and shape that an identity provider for web applications hands out.
fn token(algorithm: Algorithm, key: &EncodingKey) -> Token {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = json!({
        "sub": "8a6e0804-2bd0-4672-b79d-d97027f9071a",
        "exp": (now + Duration::from_secs(3600)).as_secs(),
        "iat": now.as_secs(),
        "iss": "https://id.example/auth/v1",
        "aud": "authenticated",
        "role": "authenticated",
        "email": "someone@mail.example",
        "session_id": "0d7a1c9e-3f0f-4a53-9b39-0f4b3c1f2f5e",
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "user_metadata": {"name": "Some One", "avatar_url": "https://images.example/someone.png"},
    });
    Token::new(jsonwebtoken::encode(&Header::new(algorithm), &claims, key).unwrap())
}

criterion_group!(benches, token_check);
criterion_main!(benches);
