-- Functions are open to everybody unless it is taken back.
revoke all on all functions in schema herald from public;
