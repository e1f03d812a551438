-- Answers that were charged for: what their receipts say, from before the books were asked to settle. Times are Unix seconds.

CREATE TABLE receipt (
    id TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 32),
    account TEXT NOT NULL CHECK (length(account) > 0), -- of the books
    hold INTEGER NOT NULL CHECK (hold >= 0), -- number of its record
    rounding INTEGER NOT NULL CHECK (rounding IN (0, 1)), -- smallest units above the income
    body BLOB NOT NULL, -- canonical JSON {receipt, signature}; until it is settled unsigned, and with the record of the hold
    state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'lost')),
    made_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX receipt_open ON receipt (made_at) WHERE state = 'open';
CREATE INDEX receipt_by_account ON receipt (account, made_at);
