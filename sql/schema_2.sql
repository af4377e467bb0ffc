-- Version 2: functions may be among what Herald made or met in the application's schema.
alter table herald.installed drop constraint if exists installed_kind_check;
alter table herald.installed add constraint installed_kind_check check (kind in ('view', 'index', 'function'));
