-- The doorbell: how a writer wakes the gateways, and when it need not.
--
-- NOTIFY is dear. A commit that notifies holds a lock of the whole server from before its fsync until after it, so that such
-- commits queue up one behind another. Gateways that read all the time need no ring, and so a writer rings only if a gateway
-- waits for it. Two advisory locks tell, because a lock is seen at once, whatever snapshot a transaction has, and because the
-- server takes it back from whoever dies:
--
--   5216701506134474756  asleep: held, shared, by every gateway that waits for a ring
--   5216701506134474757  silent: held, shared, by every writer from before it looks for such a gateway until it has ended
--
-- A writer takes `silent` and then looks whether anybody holds `asleep`. A gateway takes `asleep`, then finds that nobody
-- holds `silent`, then reads once more, and only then waits for a ring. So a writer that found nobody asleep looked before that
-- gateway took `asleep`, had `silent` by then, and has ended before the gateway's last read: a transaction gives its locks back
-- after its rows have become visible. Every other writer has found the gateway and rings. src/feed/doorbell.rs is the gateway's side.
-- A savepoint that is rolled back gives `silent` back together with the rows.
--
-- Whether anybody holds `asleep` is found out by taking it alone and giving it back in the same expression, within which nothing
-- can interrupt. Two writers may find each other there, or a gateway that looks; then one rings in vain, which changes nothing.
--
-- It has no search_path of its own, since with one Postgres would call it instead of making it a part of the expression that asks,
-- which is dear too for something that every writer does. All names are qualified instead.
create or replace function herald.needs_ring() returns boolean
language sql volatile
as $herald$
  select not (pg_catalog.pg_try_advisory_xact_lock_shared(5216701506134474757)
              and pg_catalog.pg_try_advisory_lock(5216701506134474756)
              and pg_catalog.pg_advisory_unlock(5216701506134474756))
$herald$;
