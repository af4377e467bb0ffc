-- Takes the lock that creating triggers needs on public.messages and its partitions, if any trigger is missing.
-- The one who runs this sets lock_timeout and statement_timeout first: whoever writes a message queues up behind a lock
-- that is waited for, so the wait has to be short and is tried again instead.
do $herald$
begin
  if exists (select from herald.triggers() where enabled is null) then
    lock table public.messages in share row exclusive mode;
  end if;
end
$herald$;
