-- Sign-ins under way, sessions and API keys. Times are Unix seconds. A secret is here only as its digest (64 hex digits).

CREATE TABLE sign_in (
    nonce TEXT NOT NULL PRIMARY KEY,
    message TEXT NOT NULL CHECK (length(message) = 64), -- SHA-256 of the message that was given out
    browser TEXT NOT NULL CHECK (length(browser) = 64), -- digest of the cookie of who asked for it
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX sign_in_by_end ON sign_in (expires_at);

CREATE TABLE session (
    digest TEXT NOT NULL PRIMARY KEY CHECK (length(digest) = 64),
    account TEXT NOT NULL CHECK (length(account) > 0),
    address TEXT NOT NULL,
    chain_id INTEGER NOT NULL CHECK (chain_id > 0),
    created_at INTEGER NOT NULL,
    idle_until INTEGER NOT NULL,
    ends_at INTEGER NOT NULL CHECK (ends_at >= idle_until)
) STRICT, WITHOUT ROWID;

CREATE INDEX session_by_account ON session (account, created_at);
CREATE INDEX session_by_end ON session (idle_until);

CREATE TABLE api_key (
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    digest TEXT NOT NULL CHECK (length(digest) = 64),
    account TEXT NOT NULL CHECK (length(account) > 0),
    name TEXT NOT NULL,
    scopes TEXT NOT NULL CHECK (length(scopes) > 0), -- names in order, with a space between two
    created_at INTEGER NOT NULL,
    expires_at INTEGER CHECK (expires_at IS NULL OR expires_at > created_at),
    used_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX api_key_by_account ON api_key (account, created_at);
