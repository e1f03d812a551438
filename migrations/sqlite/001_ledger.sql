-- The books. What ledger/rules.py decides is held here again (docs/spec/ledger.md, I1 to I10), for whoever writes past it.
-- A record's entries come first and the record after them, in one transaction: the record's trigger sees all of it, and an
-- entry without a record cannot be committed. Accounts change by their entries alone. OR REPLACE, which deletes silently,
-- finds nothing to replace: every trigger asks first.

CREATE TABLE asset (
  code TEXT PRIMARY KEY,
  scale INTEGER NOT NULL CHECK (scale BETWEEN 0 AND 18)
) STRICT, WITHOUT ROWID;

INSERT INTO asset (code, scale) VALUES ('BLY', 8), ('USD', 8);

CREATE TABLE record (
  seq INTEGER PRIMARY KEY CHECK (seq >= 0),
  time INTEGER NOT NULL CHECK (time >= 0),
  kind TEXT NOT NULL CHECK (kind IN ('open', 'close', 'post', 'hold', 'settle', 'void', 'expire', 'reverse')),
  key TEXT NOT NULL UNIQUE CHECK (length(key) BETWEEN 1 AND 210),
  request BLOB NOT NULL CHECK (length(request) = 32),
  target INTEGER UNIQUE REFERENCES record (seq), -- I5: what is ended is ended once
  expires INTEGER,
  note TEXT NOT NULL CHECK (length(note) <= 200),
  leaf BLOB NOT NULL CHECK (length(leaf) = 32),
  CHECK ((kind = 'hold') = (expires IS NOT NULL)),
  CHECK ((kind IN ('open', 'post', 'hold')) = (target IS NULL)),
  CHECK (target IS NULL OR target < seq)
) STRICT;

CREATE INDEX record_time ON record (time);

CREATE INDEX record_expires ON record (expires) WHERE expires IS NOT NULL;

CREATE TABLE account (
  id INTEGER PRIMARY KEY REFERENCES record (seq) DEFERRABLE INITIALLY DEFERRED,
  name TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 128),
  asset TEXT NOT NULL REFERENCES asset (code),
  floor INTEGER NOT NULL CHECK (floor BETWEEN -4611686018427387904 AND 0),
  ceiling INTEGER NOT NULL CHECK (ceiling BETWEEN 0 AND 4611686018427387904),
  closed INTEGER REFERENCES record (seq) DEFERRABLE INITIALLY DEFERRED,
  version INTEGER NOT NULL DEFAULT 0 CHECK (version >= 0),
  balance INTEGER NOT NULL DEFAULT 0 CHECK (balance BETWEEN -4611686018427387904 AND 4611686018427387904), -- I8
  held_out INTEGER NOT NULL DEFAULT 0 CHECK (held_out BETWEEN 0 AND 4611686018427387904),
  held_in INTEGER NOT NULL DEFAULT 0 CHECK (held_in BETWEEN 0 AND 4611686018427387904),
  CHECK (balance - held_out >= floor), -- I4
  CHECK (balance + held_in <= ceiling),
  CHECK (closed IS NULL OR (balance = 0 AND held_out = 0 AND held_in = 0)) -- I10
) STRICT;

-- A new record looks for the accounts that wait for it (the foreign keys are deferred).
CREATE INDEX account_closed ON account (closed);

CREATE TABLE entry (
  record INTEGER NOT NULL REFERENCES record (seq) DEFERRABLE INITIALLY DEFERRED,
  n INTEGER NOT NULL CHECK (n BETWEEN 0 AND 15),
  account INTEGER NOT NULL REFERENCES account (id),
  version INTEGER NOT NULL,
  amount INTEGER NOT NULL CHECK (amount BETWEEN -4611686018427387904 AND 4611686018427387904),
  out_change INTEGER NOT NULL CHECK (out_change BETWEEN -4611686018427387904 AND 4611686018427387904),
  in_change INTEGER NOT NULL CHECK (in_change BETWEEN -4611686018427387904 AND 4611686018427387904),
  balance INTEGER NOT NULL,
  held_out INTEGER NOT NULL,
  held_in INTEGER NOT NULL,
  PRIMARY KEY (record, n),
  UNIQUE (account, version)
) STRICT, WITHOUT ROWID;

-- What the books refused, so that the same key is answered the same way (I6).
CREATE TABLE refusal (
  key TEXT PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 200),
  request BLOB NOT NULL CHECK (length(request) = 32),
  time INTEGER NOT NULL,
  code TEXT NOT NULL,
  message TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Promises about the first `size` records: root is the RFC 6962 tree hash over their leaves (I9).
CREATE TABLE seal (
  number INTEGER PRIMARY KEY CHECK (number >= 0),
  size INTEGER NOT NULL CHECK (size > 0),
  root BLOB NOT NULL CHECK (length(root) = 32),
  time INTEGER NOT NULL
) STRICT;

-- Full tiles of 256 hashes of that tree, as chain/merkle has them: derived, so that a proof does not read every leaf.
CREATE TABLE tile (
  level INTEGER NOT NULL,
  number INTEGER NOT NULL,
  hashes BLOB NOT NULL CHECK (length(hashes) = 8192),
  PRIMARY KEY (level, number)
) STRICT, WITHOUT ROWID;

-- I3: nothing is updated or deleted.

CREATE TRIGGER asset_stays BEFORE UPDATE ON asset BEGIN SELECT raise(ABORT, 'I3: an asset is not changed'); END;

CREATE TRIGGER asset_remains BEFORE DELETE ON asset BEGIN SELECT raise(ABORT, 'I3: an asset is not deleted'); END;

CREATE TRIGGER record_stays BEFORE UPDATE ON record BEGIN SELECT raise(ABORT, 'I3: a record is not changed'); END;

CREATE TRIGGER record_remains BEFORE DELETE ON record BEGIN SELECT raise(ABORT, 'I3: a record is not deleted'); END;

CREATE TRIGGER entry_stays BEFORE UPDATE ON entry BEGIN SELECT raise(ABORT, 'I3: an entry is not changed'); END;

CREATE TRIGGER entry_remains BEFORE DELETE ON entry BEGIN SELECT raise(ABORT, 'I3: an entry is not deleted'); END;

CREATE TRIGGER refusal_stays BEFORE UPDATE ON refusal BEGIN SELECT raise(ABORT, 'I3: a refusal is not changed'); END;

CREATE TRIGGER refusal_remains BEFORE DELETE ON refusal BEGIN SELECT raise(ABORT, 'I3: a refusal is not deleted'); END;

CREATE TRIGGER seal_stays BEFORE UPDATE ON seal BEGIN SELECT raise(ABORT, 'I3: a seal is not changed'); END;

CREATE TRIGGER seal_remains BEFORE DELETE ON seal BEGIN SELECT raise(ABORT, 'I3: a seal is not deleted'); END;

CREATE TRIGGER tile_stays BEFORE UPDATE ON tile BEGIN SELECT raise(ABORT, 'I3: a tile is not changed'); END;

CREATE TRIGGER tile_remains BEFORE DELETE ON tile BEGIN SELECT raise(ABORT, 'I3: a tile is not deleted'); END;

CREATE TRIGGER account_remains BEFORE DELETE ON account BEGIN SELECT raise(ABORT, 'I3: an account is not deleted'); END;

-- I7: an account begins with nothing and is then what its last entry says.

CREATE TRIGGER account_opens BEFORE INSERT ON account
BEGIN
  SELECT raise(ABORT, 'I3: an account of this number or name is there')
    WHERE EXISTS (SELECT 1 FROM account WHERE id = NEW.id OR name = NEW.name);
  SELECT raise(ABORT, 'I3: an account opens with its record')
    WHERE EXISTS (SELECT 1 FROM record WHERE seq = NEW.id);
  SELECT raise(ABORT, 'I7: an account begins with nothing')
    WHERE NEW.version <> 0 OR NEW.balance <> 0 OR NEW.held_out <> 0 OR NEW.held_in <> 0 OR NEW.closed IS NOT NULL;
END;

CREATE TRIGGER account_changes BEFORE UPDATE ON account
BEGIN
  SELECT raise(ABORT, 'I3: what an account was opened with is not changed')
    WHERE NEW.id <> OLD.id OR NEW.name <> OLD.name OR NEW.asset <> OLD.asset OR NEW.floor <> OLD.floor
      OR NEW.ceiling <> OLD.ceiling;
  SELECT raise(ABORT, 'I10: a closed account is not changed') WHERE OLD.closed IS NOT NULL;
  SELECT raise(ABORT, 'I10: an account is closed by a record to come')
    WHERE NEW.closed IS NOT NULL AND (NEW.version <> OLD.version
      OR EXISTS (SELECT 1 FROM record WHERE seq = NEW.closed));
  SELECT raise(ABORT, 'I7: an account is what its last entry says')
    WHERE NEW.closed IS NULL AND (NEW.version <> OLD.version + 1 OR NOT EXISTS (
      SELECT 1 FROM entry WHERE account = NEW.id AND version = NEW.version AND balance = NEW.balance
        AND held_out = NEW.held_out AND held_in = NEW.held_in));
  SELECT raise(ABORT, 'I7: an account is what its last entry says')
    WHERE NEW.closed IS NOT NULL
      AND (NEW.balance <> OLD.balance OR NEW.held_out <> OLD.held_out OR NEW.held_in <> OLD.held_in);
END;

CREATE TRIGGER entry_follows BEFORE INSERT ON entry
BEGIN
  SELECT raise(ABORT, 'I3: a record that is there takes no more entries')
    WHERE EXISTS (SELECT 1 FROM record WHERE seq = NEW.record);
  SELECT raise(ABORT, 'I3: an entry of this place is there')
    WHERE EXISTS (SELECT 1 FROM entry WHERE record = NEW.record AND n = NEW.n);
  SELECT raise(ABORT, 'I7: an entry follows the one before, and its account is open (I10)')
    WHERE NOT EXISTS (
      SELECT 1 FROM account WHERE id = NEW.account AND version = NEW.version - 1 AND closed IS NULL
        AND balance + NEW.amount = NEW.balance AND held_out + NEW.out_change = NEW.held_out
        AND held_in + NEW.in_change = NEW.held_in);
END;

CREATE TRIGGER entry_counts AFTER INSERT ON entry
BEGIN
  UPDATE account SET version = NEW.version, balance = NEW.balance, held_out = NEW.held_out, held_in = NEW.held_in
    WHERE id = NEW.account;
END;

CREATE TRIGGER record_follows BEFORE INSERT ON record
BEGIN
  SELECT raise(ABORT, 'I3: records are numbered without gaps, and time does not go back')
    WHERE NEW.seq <> coalesce((SELECT max(seq) + 1 FROM record), 0)
      OR NEW.time < coalesce((SELECT time FROM record WHERE seq = NEW.seq - 1), 0);
  SELECT raise(ABORT, 'I6: this key was used') WHERE EXISTS (SELECT 1 FROM record WHERE key = NEW.key)
    OR EXISTS (SELECT 1 FROM refusal WHERE key = NEW.key);
  SELECT raise(ABORT, 'I1: debits equal credits, of each asset')
    WHERE EXISTS (SELECT 1 FROM entry JOIN account ON id = entry.account WHERE record = NEW.seq GROUP BY asset
      HAVING sum(entry.amount) <> 0 OR sum(entry.out_change) <> sum(entry.in_change));
  SELECT raise(ABORT, 'I2: a record has the entries of its kind')
    WHERE NOT CASE NEW.kind
      WHEN 'open' THEN NOT EXISTS (SELECT 1 FROM entry WHERE record = NEW.seq)
        AND EXISTS (SELECT 1 FROM account WHERE id = NEW.seq)
      WHEN 'close' THEN NOT EXISTS (SELECT 1 FROM entry WHERE record = NEW.seq)
        AND EXISTS (SELECT 1 FROM account WHERE id = NEW.target AND closed = NEW.seq)
      WHEN 'post' THEN (SELECT count(*) >= 2 AND count(*) % 2 = 0 AND min(abs(amount)) > 0
        AND max(abs(out_change) + abs(in_change)) = 0 AND max(n) = count(*) - 1
        AND min(CASE WHEN n % 2 = 0 THEN amount < 0 ELSE amount > 0 END) FROM entry WHERE record = NEW.seq)
      WHEN 'reverse' THEN (SELECT count(*) >= 2 AND max(abs(out_change) + abs(in_change)) = 0 FROM entry
        WHERE record = NEW.seq)
      WHEN 'hold' THEN (SELECT count(*) = 2 AND max(abs(amount)) = 0 AND max(n) = 1
        AND min(CASE n WHEN 0 THEN out_change > 0 AND in_change = 0 ELSE in_change > 0 AND out_change = 0 END)
        FROM entry WHERE record = NEW.seq)
      ELSE (SELECT count(*) = 2 AND max(n) = 1 FROM entry WHERE record = NEW.seq)
    END;
  SELECT raise(ABORT, 'I5: a hold ends once, within its time and amount')
    WHERE NEW.kind IN ('settle', 'void', 'expire') AND NOT EXISTS (
      SELECT 1 FROM record held
        JOIN entry h0 ON h0.record = held.seq AND h0.n = 0 JOIN entry h1 ON h1.record = held.seq AND h1.n = 1
        JOIN entry e0 ON e0.record = NEW.seq AND e0.n = 0 JOIN entry e1 ON e1.record = NEW.seq AND e1.n = 1
      WHERE held.seq = NEW.target AND held.kind = 'hold'
        AND e0.account = h0.account AND e0.out_change = -h0.out_change AND e0.in_change = 0
        AND e1.account = h1.account AND e1.in_change = -h1.in_change AND e1.out_change = 0
        AND CASE NEW.kind
          WHEN 'settle' THEN e1.amount BETWEEN 1 AND h0.out_change AND NEW.time < held.expires
          WHEN 'void' THEN e1.amount = 0
          ELSE e1.amount = 0 AND NEW.time >= held.expires
        END)
      OR NEW.target IS NOT NULL AND EXISTS (SELECT 1 FROM record WHERE target = NEW.target);
  SELECT raise(ABORT, 'I2: a reversal moves back what one record moved')
    WHERE NEW.kind = 'reverse' AND (
      NOT EXISTS (SELECT 1 FROM record WHERE seq = NEW.target AND kind IN ('post', 'settle'))
      OR (SELECT count(*) FROM entry WHERE record = NEW.seq) <> (SELECT count(*) FROM entry WHERE record = NEW.target)
      OR EXISTS (SELECT 1 FROM entry was LEFT JOIN entry back ON back.record = NEW.seq
          AND back.n = (SELECT max(n) FROM entry WHERE record = NEW.target) - was.n
        WHERE was.record = NEW.target AND (back.account IS NULL OR back.account <> was.account
          OR back.amount <> -was.amount)));
END;

CREATE TRIGGER refusal_new BEFORE INSERT ON refusal
BEGIN
  SELECT raise(ABORT, 'I6: this key was used') WHERE EXISTS (SELECT 1 FROM record WHERE key = NEW.key)
    OR EXISTS (SELECT 1 FROM refusal WHERE key = NEW.key);
END;

CREATE TRIGGER seal_follows BEFORE INSERT ON seal
BEGIN
  SELECT raise(ABORT, 'I9: a seal follows the one before and promises records that are there')
    WHERE NEW.number <> coalesce((SELECT max(number) + 1 FROM seal), 0)
      OR NEW.size <= coalesce((SELECT size FROM seal WHERE number = NEW.number - 1), 0)
      OR NEW.size > coalesce((SELECT max(seq) + 1 FROM record), 0);
END;
