//! An application that writes messages in every way that applications do: several at once, in transactions that wait,
//! with savepoints, with rollbacks, by COPY, and over connections that break.

use std::{fmt::Write as _, time::Duration};

use futures::SinkExt;
use herald::tasks::Tasks;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// Starts writers that each do a number of transactions among these people. They end by themselves; wait for
/// [`Tasks::finish`]. A transaction whose connection broke is given up and counts.
pub(crate) fn start(tasks: &Tasks, url: &str, people: &[Uuid], writers: u64, transactions: usize, seed: u64) {
    for number in 0..writers {
        let writer = Writer {
            url: url.to_owned(),
            people: people.to_vec(),
            random: StdRng::seed_from_u64(seed ^ (number << 32)),
        };
        tasks.spawn("writer", writer.run(transactions));
    }
}

struct Writer {
    url: String,
    people: Vec<Uuid>,
    random: StdRng,
}

impl Writer {
    async fn run(mut self, transactions: usize) {
        let mut done = 0;
        while done < transactions {
            let Ok((client, connection)) = tokio_postgres::connect(&self.url, NoTls).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let work = async {
                while done < transactions {
                    done += 1;
                    if self.transaction(&client).await.is_err() {
                        break;
                    }
                }
                drop(client);
            };
            // A connection that breaks is everyday life here.
            let ((), _closed) = tokio::join!(work, connection);
        }
    }

    async fn transaction(&mut self, client: &Client) -> Result<(), tokio_postgres::Error> {
        match self.random.random_range(0..10) {
            0..4 => client.batch_execute(&self.insert(1)).await,
            4 => {
                let rows = self.random.random_range(2..20);
                client.batch_execute(&self.insert(rows)).await
            }
            5 => self.copy(client).await,
            6 => {
                let text = format!("begin; {}; {}; rollback", self.insert(2), self.pause());
                client.batch_execute(&text).await
            }
            7 => {
                let (kept, undone, last) = (self.insert(1), self.insert(3), self.insert(1));
                let pause = self.pause();
                let text = format!(
                    "begin; {kept}; savepoint s; {undone}; rollback to s; {pause}; \
                     savepoint t; {last}; release t; commit"
                );
                client.batch_execute(&text).await
            }
            8 => {
                let mark = "update public.messages set is_read = not is_read where id in \
                            (select id from public.messages order by id limit 3 for update skip locked)";
                client
                    .batch_execute(&format!("begin; {mark}; {}; commit", self.pause()))
                    .await
            }
            _ => {
                let (early, late, pause) = (self.insert(1), self.insert(1), self.pause());
                client
                    .batch_execute(&format!("begin; {early}; {pause}; {late}; commit"))
                    .await
            }
        }
    }

    fn pause(&mut self) -> String {
        format!("select pg_sleep({:.3})", self.random.random_range(0.0..0.05))
    }

    fn person(&mut self) -> Uuid {
        self.people[self.random.random_range(0..self.people.len())]
    }

    fn insert(&mut self, rows: usize) -> String {
        let values: Vec<String> = (0..rows)
            .map(|_| {
                format!(
                    "('{}', '{}', 'hello {}')",
                    self.person(),
                    self.person(),
                    self.random.random::<u32>()
                )
            })
            .collect();
        format!(
            "insert into public.messages (sender_id, receiver_id, content) values {}",
            values.join(", ")
        )
    }

    async fn copy(&mut self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let sink = client
            .copy_in("copy public.messages (sender_id, receiver_id, content) from stdin")
            .await?;
        let mut lines = String::new();
        for _ in 0..self.random.random_range(1..10) {
            writeln!(lines, "{}\t{}\tcopied", self.person(), self.person()).unwrap();
        }
        futures::pin_mut!(sink);
        sink.send(bytes::Bytes::from(lines)).await?;
        sink.finish().await?;
        Ok(())
    }
}
