-- A role with a password, for the gateway of docker-compose.yml.
create role herald_gateway login noinherit password 'herald';
