-- The lives of the database: the spans between its crashes.
--
-- A transaction number is not unique for ever. What a transaction that was rolled back wrote to the WAL need not have
-- reached the disk when Postgres crashes, and then recovery does not know that its number was given out: the next
-- transaction gets it again. A reader that remembers "all below 1000 have ended, I have seen them" would miss what the
-- second transaction 990 commits. So each row of herald.log carries the life in which it was written, and a reader
-- takes whatever a later life wrote for unseen.
--
-- An unlogged sequence is exactly what is needed to notice a crash: recovery resets it, a clean restart does not, it
-- costs no WAL, and it does not wait for anybody's transaction to end. Whoever finds it reset gives the new life its
-- number: the oldest transaction that is running. No log row of the new life has a lower number, because whoever wrote
-- one earlier has not found the sequence reset, or is running still; and no committed transaction of the old life has
-- one as high, because commits do reach the disk. The snapshot is taken before the sequence is read (one statement), so
-- that of two who find it reset at once, neither gives a number above the other's transaction.

create unlogged sequence if not exists herald.life;

create or replace function herald.current_life() returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $herald$
  select case when is_called then last_value
              else setval('herald.life', pg_snapshot_xmin(pg_current_snapshot())::text::bigint) end
    from herald.life
$herald$;
