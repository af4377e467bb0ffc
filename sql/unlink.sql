-- Takes the lock that dropping triggers needs. As with lock.sql, whoever runs this sets lock_timeout and
-- statement_timeout first.
do $herald$
begin
  if to_regclass('public.messages') is not null then
    lock table public.messages in access exclusive mode;
  end if;
end
$herald$;
