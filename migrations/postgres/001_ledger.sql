-- The books. What ledger/rules.py decides is held here again (docs/spec/ledger.md, I1 to I10), for whoever writes past it.
-- A record's entries come first and the record after them, in one transaction: the record's trigger sees all of it, and an
-- entry without a record cannot be committed. Accounts change by their entries alone. Writers take the lock of the table
-- `record` first, so that numbers have the order of commits and no gaps.

CREATE SCHEMA ledger;
SET LOCAL search_path = ledger;

CREATE TABLE asset (
  code text PRIMARY KEY,
  scale integer NOT NULL CHECK (scale BETWEEN 0 AND 18)
);
INSERT INTO asset (code, scale) VALUES ('BLY', 8), ('USD', 8);

CREATE TABLE record (
  seq bigint PRIMARY KEY CHECK (seq >= 0),
  time bigint NOT NULL CHECK (time >= 0),
  kind text NOT NULL CHECK (kind IN ('open', 'close', 'post', 'hold', 'settle', 'void', 'expire', 'reverse')),
  key text COLLATE "C" NOT NULL UNIQUE CHECK (length(key) BETWEEN 1 AND 210),
  request bytea NOT NULL CHECK (length(request) = 32),
  target bigint UNIQUE, -- I5: what is ended is ended once; the trigger sees that it is there
  expires bigint,
  note text NOT NULL CHECK (length(note) <= 200),
  leaf bytea NOT NULL CHECK (length(leaf) = 32),
  CHECK ((kind = 'hold') = (expires IS NOT NULL)),
  CHECK ((kind IN ('open', 'post', 'hold')) = (target IS NULL)),
  CHECK (target IS NULL OR target < seq)
);
CREATE INDEX record_time ON record (time);
CREATE INDEX record_expires ON record (expires) WHERE expires IS NOT NULL;

CREATE TABLE account (
  id bigint PRIMARY KEY REFERENCES record (seq) DEFERRABLE INITIALLY DEFERRED,
  name text COLLATE "C" NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 128),
  asset text NOT NULL REFERENCES asset (code),
  floor bigint NOT NULL CHECK (floor BETWEEN -4611686018427387904 AND 0),
  ceiling bigint NOT NULL CHECK (ceiling BETWEEN 0 AND 4611686018427387904),
  closed bigint REFERENCES record (seq) DEFERRABLE INITIALLY DEFERRED,
  version bigint NOT NULL DEFAULT 0 CHECK (version >= 0),
  balance bigint NOT NULL DEFAULT 0 CHECK (balance BETWEEN -4611686018427387904 AND 4611686018427387904), -- I8
  held_out bigint NOT NULL DEFAULT 0 CHECK (held_out BETWEEN 0 AND 4611686018427387904),
  held_in bigint NOT NULL DEFAULT 0 CHECK (held_in BETWEEN 0 AND 4611686018427387904),
  CHECK (balance - held_out >= floor), -- I4
  CHECK (balance + held_in <= ceiling),
  CHECK (closed IS NULL OR (balance = 0 AND held_out = 0 AND held_in = 0)) -- I10
) WITH (fillfactor = 50);

-- That its record follows is looked at when the transaction ends (entry_recorded), once for each record.
CREATE TABLE entry (
  record bigint NOT NULL,
  n smallint NOT NULL CHECK (n BETWEEN 0 AND 15),
  account bigint NOT NULL,
  version bigint NOT NULL,
  amount bigint NOT NULL CHECK (amount BETWEEN -4611686018427387904 AND 4611686018427387904),
  out_change bigint NOT NULL CHECK (out_change BETWEEN -4611686018427387904 AND 4611686018427387904),
  in_change bigint NOT NULL CHECK (in_change BETWEEN -4611686018427387904 AND 4611686018427387904),
  balance bigint NOT NULL,
  held_out bigint NOT NULL,
  held_in bigint NOT NULL,
  PRIMARY KEY (record, n),
  UNIQUE (account, version)
);

-- What the books refused, so that the same key is answered the same way (I6).
CREATE TABLE refusal (
  key text COLLATE "C" PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 200),
  request bytea NOT NULL CHECK (length(request) = 32),
  time bigint NOT NULL,
  code text NOT NULL,
  message text NOT NULL
);

-- Promises about the first `size` records: root is the RFC 6962 tree hash over their leaves (I9).
CREATE TABLE seal (
  number bigint PRIMARY KEY CHECK (number >= 0),
  size bigint NOT NULL CHECK (size > 0),
  root bytea NOT NULL CHECK (length(root) = 32),
  time bigint NOT NULL
);

-- Full tiles of 256 hashes of that tree, as chain/merkle has them: derived, so that a proof does not read every leaf.
CREATE TABLE tile (
  level integer NOT NULL,
  number bigint NOT NULL,
  hashes bytea NOT NULL CHECK (length(hashes) = 8192),
  PRIMARY KEY (level, number)
);

-- I3: nothing is updated, deleted or truncated.

CREATE FUNCTION stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'I3: % is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER stays BEFORE UPDATE OR DELETE OR TRUNCATE ON asset EXECUTE FUNCTION stays();
CREATE TRIGGER stays BEFORE UPDATE OR DELETE OR TRUNCATE ON record EXECUTE FUNCTION stays();
CREATE TRIGGER stays BEFORE UPDATE OR DELETE OR TRUNCATE ON entry EXECUTE FUNCTION stays();
CREATE TRIGGER stays BEFORE UPDATE OR DELETE OR TRUNCATE ON refusal EXECUTE FUNCTION stays();
CREATE TRIGGER stays BEFORE UPDATE OR DELETE OR TRUNCATE ON seal EXECUTE FUNCTION stays();
CREATE TRIGGER stays BEFORE UPDATE OR DELETE OR TRUNCATE ON tile EXECUTE FUNCTION stays();
CREATE TRIGGER stays BEFORE DELETE OR TRUNCATE ON account EXECUTE FUNCTION stays();

CREATE FUNCTION refuse(why text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%', why USING ERRCODE = 'integrity_constraint_violation';
END $$;

-- I7: an account begins with nothing and is then what its last entry says.

CREATE FUNCTION account_opens() RETURNS trigger LANGUAGE plpgsql SET search_path = ledger AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM record WHERE seq = NEW.id) THEN
    PERFORM refuse('I3: an account opens with its record');
  END IF;
  IF NEW.version <> 0 OR NEW.balance <> 0 OR NEW.held_out <> 0 OR NEW.held_in <> 0 OR NEW.closed IS NOT NULL THEN
    PERFORM refuse('I7: an account begins with nothing');
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER account_opens BEFORE INSERT ON account FOR EACH ROW EXECUTE FUNCTION account_opens();

CREATE FUNCTION account_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.id <> OLD.id OR NEW.name <> OLD.name OR NEW.asset <> OLD.asset OR NEW.floor <> OLD.floor
      OR NEW.ceiling <> OLD.ceiling THEN
    PERFORM ledger.refuse('I3: what an account was opened with is not changed');
  END IF;
  IF OLD.closed IS NOT NULL THEN
    PERFORM ledger.refuse('I10: a closed account is not changed');
  END IF;
  IF NEW.closed IS NOT NULL THEN
    IF NEW.version <> OLD.version OR EXISTS (SELECT 1 FROM ledger.record WHERE seq = NEW.closed) THEN
      PERFORM ledger.refuse('I10: an account is closed by a record to come');
    END IF;
    IF NEW.balance <> OLD.balance OR NEW.held_out <> OLD.held_out OR NEW.held_in <> OLD.held_in THEN
      PERFORM ledger.refuse('I7: an account is what its last entry says');
    END IF;
  ELSIF pg_trigger_depth() < 2 THEN -- not from entry_counts
    PERFORM ledger.refuse('I7: an account is what its last entry says');
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER account_changes BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION account_changes();

CREATE FUNCTION entry_counts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM ledger.record WHERE seq = NEW.record)
      OR NEW.n > 0 AND NOT EXISTS (SELECT 1 FROM ledger.entry WHERE record = NEW.record AND n = NEW.n - 1) THEN
    PERFORM ledger.refuse('I3: a record that is there takes no more entries, and they come in order');
  END IF;
  UPDATE ledger.account a SET version = NEW.version, balance = NEW.balance, held_out = NEW.held_out,
      held_in = NEW.held_in
    WHERE a.id = NEW.account AND a.version = NEW.version - 1 AND a.closed IS NULL
      AND a.balance + NEW.amount = NEW.balance AND a.held_out + NEW.out_change = NEW.held_out
      AND a.held_in + NEW.in_change = NEW.held_in;
  IF NOT FOUND THEN
    PERFORM ledger.refuse('I7: an entry follows the one before, and its account is open (I10)');
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER entry_counts AFTER INSERT ON entry FOR EACH ROW EXECUTE FUNCTION entry_counts();

CREATE FUNCTION entry_recorded() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM ledger.record WHERE seq = NEW.record) THEN
    PERFORM ledger.refuse('I1: an entry comes with its record');
  END IF;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER entry_recorded AFTER INSERT ON entry DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW WHEN (NEW.n = 0) EXECUTE FUNCTION entry_recorded();

CREATE FUNCTION entries_fit(new_kind text, new_seq bigint, new_target bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  CASE new_kind
    WHEN 'open' THEN
      RETURN NOT EXISTS (SELECT 1 FROM ledger.entry WHERE record = new_seq)
        AND EXISTS (SELECT 1 FROM ledger.account WHERE id = new_seq);
    WHEN 'close' THEN
      RETURN NOT EXISTS (SELECT 1 FROM ledger.entry WHERE record = new_seq)
        AND EXISTS (SELECT 1 FROM ledger.account WHERE id = new_target AND closed = new_seq);
    WHEN 'post' THEN
      RETURN (SELECT count(*) >= 2 AND count(*) % 2 = 0 AND min(abs(amount)) > 0
        AND max(abs(out_change) + abs(in_change)) = 0 AND max(n) = count(*) - 1
        AND bool_and(CASE WHEN n % 2 = 0 THEN amount < 0 ELSE amount > 0 END)
        FROM ledger.entry WHERE record = new_seq);
    WHEN 'reverse' THEN
      RETURN (SELECT count(*) >= 2 AND max(abs(out_change) + abs(in_change)) = 0
        FROM ledger.entry WHERE record = new_seq);
    WHEN 'hold' THEN
      RETURN (SELECT count(*) = 2 AND max(abs(amount)) = 0 AND max(n) = 1
        AND bool_and(CASE n WHEN 0 THEN out_change > 0 AND in_change = 0 ELSE in_change > 0 AND out_change = 0 END)
        FROM ledger.entry WHERE record = new_seq);
    ELSE
      RETURN (SELECT count(*) = 2 AND max(n) = 1 FROM ledger.entry WHERE record = new_seq);
  END CASE;
END $$;

CREATE FUNCTION hold_ends(new_kind text, new_seq bigint, new_time bigint, new_target bigint) RETURNS boolean
LANGUAGE sql AS $$
  SELECT EXISTS (
    SELECT 1 FROM ledger.record held
      JOIN ledger.entry h0 ON h0.record = held.seq AND h0.n = 0
      JOIN ledger.entry h1 ON h1.record = held.seq AND h1.n = 1
      JOIN ledger.entry e0 ON e0.record = new_seq AND e0.n = 0
      JOIN ledger.entry e1 ON e1.record = new_seq AND e1.n = 1
    WHERE held.seq = new_target AND held.kind = 'hold'
      AND e0.account = h0.account AND e0.out_change = -h0.out_change AND e0.in_change = 0
      AND e1.account = h1.account AND e1.in_change = -h1.in_change AND e1.out_change = 0
      AND CASE new_kind
        WHEN 'settle' THEN e1.amount BETWEEN 1 AND h0.out_change AND new_time < held.expires
        WHEN 'void' THEN e1.amount = 0
        ELSE e1.amount = 0 AND new_time >= held.expires
      END)
$$;

CREATE FUNCTION moves_back(new_seq bigint, new_target bigint) RETURNS boolean LANGUAGE sql AS $$
  SELECT EXISTS (SELECT 1 FROM ledger.record WHERE seq = new_target AND kind IN ('post', 'settle'))
    AND (SELECT count(*) FROM ledger.entry WHERE record = new_seq)
      = (SELECT count(*) FROM ledger.entry WHERE record = new_target)
    AND NOT EXISTS (
      SELECT 1 FROM ledger.entry was LEFT JOIN ledger.entry back ON back.record = new_seq
        AND back.n = (SELECT max(n) FROM ledger.entry WHERE record = new_target) - was.n
      WHERE was.record = new_target
        AND (back.account IS NULL OR back.account <> was.account OR back.amount <> -was.amount))
$$;

CREATE FUNCTION record_follows() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  before record;
BEGIN
  SELECT seq, time INTO before FROM ledger.record ORDER BY seq DESC LIMIT 1;
  IF NEW.seq <> coalesce(before.seq + 1, 0) OR NEW.time < coalesce(before.time, 0) THEN
    PERFORM ledger.refuse('I3: records are numbered without gaps, and time does not go back');
  END IF;
  IF EXISTS (SELECT 1 FROM ledger.refusal WHERE key = NEW.key) THEN
    PERFORM ledger.refuse('I6: this key was used');
  END IF;
  IF EXISTS (SELECT 1 FROM ledger.entry e JOIN ledger.account a ON a.id = e.account WHERE e.record = NEW.seq
      GROUP BY a.asset HAVING sum(e.amount) <> 0 OR sum(e.out_change) <> sum(e.in_change)) THEN
    PERFORM ledger.refuse('I1: debits equal credits, of each asset');
  END IF;
  IF NOT ledger.entries_fit(NEW.kind, NEW.seq, NEW.target) THEN
    PERFORM ledger.refuse('I2: a record has the entries of its kind');
  END IF;
  IF NEW.kind IN ('settle', 'void', 'expire') AND NOT ledger.hold_ends(NEW.kind, NEW.seq, NEW.time, NEW.target) THEN
    PERFORM ledger.refuse('I5: a hold ends once, within its time and amount');
  END IF;
  IF NEW.kind = 'reverse' AND NOT ledger.moves_back(NEW.seq, NEW.target) THEN
    PERFORM ledger.refuse('I2: a reversal moves back what one record moved');
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER record_follows BEFORE INSERT ON record FOR EACH ROW EXECUTE FUNCTION record_follows();

CREATE FUNCTION refusal_new() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM ledger.record WHERE key = NEW.key) THEN
    PERFORM ledger.refuse('I6: this key was used');
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER refusal_new BEFORE INSERT ON refusal FOR EACH ROW EXECUTE FUNCTION refusal_new();

CREATE FUNCTION seal_follows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.number <> coalesce((SELECT max(number) + 1 FROM ledger.seal), 0)
      OR NEW.size <= coalesce((SELECT size FROM ledger.seal WHERE number = NEW.number - 1), 0)
      OR NEW.size > coalesce((SELECT max(seq) + 1 FROM ledger.record), 0) THEN
    PERFORM ledger.refuse('I9: a seal follows the one before and promises records that are there');
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER seal_follows BEFORE INSERT ON seal FOR EACH ROW EXECUTE FUNCTION seal_follows();
