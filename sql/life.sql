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
-- number: the oldest transaction that is running. Every writer asks for the life before it writes to the log, so no log
-- row of the new life is older than its number; and no committed transaction of the old life has one as high, because
-- commits do reach the disk. (With synchronous_commit off they need not. What such a commit had delivered before it was
-- lost cannot be taken back.) Two crashes without a single durable transaction in between could give one number twice;
-- nothing was logged in the first of those lives that could be mistaken.

create unlogged sequence if not exists herald.life;

-- setval changes the sequence's row where it stands, so that whoever reads it in that moment may see the new is_called beside the old
-- last_value, which is 1. No life has that number: transaction numbers begin at 3.

-- Only one of those who find the sequence reset may give the number: a second one, given a moment later, would be
-- another. The lock belongs to the session and not to the transaction, so that it is held for microseconds and nobody
-- waits for the end of somebody's transaction. Its key is "Herald" in ASCII and the number two.
create or replace function herald.current_life() returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $herald$
declare
  known bigint;
begin
  select last_value into known from herald.life where is_called and last_value > 1;
  if found then
    return known;
  end if;
  perform pg_advisory_lock(5216701506134474754);
  begin
    select last_value into known from herald.life where is_called and last_value > 1;
    if not found then
      known := setval('herald.life', pg_snapshot_xmin(pg_current_snapshot())::text::bigint);
    end if;
  exception when others or query_canceled then
    perform pg_advisory_unlock(5216701506134474754);
    raise;
  end;
  perform pg_advisory_unlock(5216701506134474754);
  return known;
end
$herald$;
