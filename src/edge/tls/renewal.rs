//! Keeps the certificate up to date: reads its files again and again, and serves what is new and good.
//!
//! Reading the contents at an interval needs to know nothing about how they are replaced: by writing, by renaming (certbot, `mv`),
//! or by turning a link of a folder above them (Kubernetes' `..data`). Being told by the kernel would need a watch on each
//! folder of the path, would tell nothing on network file systems, and a modification time may be older than the last.
//!
//! Two files are never replaced in one moment. A pair that does not fit together is therefore no error for good: the old
//! one stays in service, and the files are looked at again.

use std::{sync::Arc, time::SystemTime};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Greeter, TlsSettings,
    certificate::{Age, Fingerprint, ServerCertificate},
};
use crate::metrics::Metrics;

/// Renews the certificate in service.
#[derive(Debug)]
pub struct Renewal {
    settings: TlsSettings,
    greeter: Arc<Greeter>,
    metrics: Arc<Metrics>,
    /// What was said last of files that cannot be served, so that each state is told once.
    told: Option<(Fingerprint, String)>,
    /// Of which age of the certificate in service people know.
    known_age: Age,
}

impl Renewal {
    /// What speaks TLS with a certificate, and what keeps them up to date.
    pub(in crate::edge) fn new(settings: TlsSettings, metrics: &Arc<Metrics>) -> (Arc<Greeter>, Self) {
        let greeter = Arc::new(Greeter::new(&settings.certificate, Arc::clone(metrics)));
        let renewal = Self {
            settings,
            greeter: Arc::clone(&greeter),
            metrics: Arc::clone(metrics),
            told: None,
            known_age: Age::Valid,
        };
        (greeter, renewal)
    }

    /// Looks at the files until it is told to stop.
    ///
    /// # Cancel safety
    /// Safe: a certificate is taken whole or not at all.
    pub async fn run(mut self, stopping: CancellationToken) {
        self.introduce();
        loop {
            self.tell_age(SystemTime::now());
            tokio::select! {
                biased;
                () = stopping.cancelled() => return,
                () = sleep(self.settings.look_every) => {}
            }
            self.look().await;
        }
    }

    /// Reads the files, and serves what is new and good.
    async fn look(&mut self) {
        let (files, serving) = (self.settings.files.clone(), self.settings.certificate.fingerprint);
        // A file system that hangs holds up one thread and no connection.
        let looked = tokio::task::spawn_blocking(move || {
            let contents = files.read();
            let fingerprint = contents.fingerprint();
            let is_new = fingerprint != serving;
            (fingerprint, is_new.then(|| contents.judge()))
        });
        match looked.await {
            Ok((_, None)) => {
                if self.told.take().is_some() {
                    tracing::info!(
                        "the TLS certificate's files are again as they were when it was taken into service"
                    );
                }
            }
            Ok((_, Some(Ok(certificate)))) => self.consider(certificate, SystemTime::now()),
            Ok((fingerprint, Some(Err(mistakes)))) => self.keep_away(fingerprint, mistakes.to_string()),
            // It did not panic, as far as anybody can tell, and if it did, the next look may go better.
            Err(error) => tracing::error!(%error, "the TLS certificate's files could not be looked at"),
        }
    }

    /// Takes a sound certificate, unless clients would refuse it and accept the one in service.
    fn consider(&mut self, certificate: ServerCertificate, now: SystemTime) {
        if !certificate.age(now).is_valid() && self.settings.certificate.age(now).is_valid() {
            let reason = format!(
                "the new certificate is valid {}, which is not now",
                certificate.span()
            );
            self.keep_away(certificate.fingerprint, reason);
            return;
        }
        self.greeter.serve(&certificate);
        self.settings.certificate = Arc::new(certificate);
        self.metrics.count_tls_reload("loaded");
        (self.told, self.known_age) = (None, Age::Valid);
        self.introduce();
    }

    fn keep_away(&mut self, fingerprint: Fingerprint, reason: String) {
        let state = (fingerprint, reason);
        if self.told.as_ref() != Some(&state) {
            let reason = &state.1;
            tracing::warn!(%reason, "the new TLS certificate is not taken into service; the old one goes on");
            self.metrics.count_tls_reload("refused");
            self.told = Some(state);
        }
    }

    fn introduce(&self) {
        let certificate = &self.settings.certificate;
        self.metrics.set_certificate_end(certificate.ends_at());
        let file = self.settings.files.certificate.display();
        tracing::info!(%file, valid = certificate.span(), "serving a TLS certificate");
    }

    /// Says once that the certificate in service is too old or too young.
    fn tell_age(&mut self, now: SystemTime) {
        let age = self.settings.certificate.age(now);
        if age == self.known_age {
            return;
        }
        self.known_age = age;
        let valid = self.settings.certificate.span();
        match age {
            Age::Valid => {}
            Age::Early => tracing::warn!(valid, "the TLS certificate is not valid yet: clients refuse it"),
            Age::EndsSoon => tracing::warn!(valid, "the TLS certificate ends soon: have it renewed"),
            Age::Ended => tracing::error!(
                valid,
                "the TLS certificate has ended: clients refuse it; have it renewed"
            ),
        }
    }
}
