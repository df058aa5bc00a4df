-- A blob whose broken bytes were replaced may have another size.
CREATE TRIGGER blob_resized AFTER UPDATE OF size ON blob BEGIN
  UPDATE total SET bytes = bytes + NEW.size - OLD.size;
END;

-- Periodic jobs. Until lease_until, by the clock of the database, the job is holder's. ended_at is when
-- the last run ended, or when the job was first heard of; took, result and error tell of the last run that ended.
CREATE TABLE job (
  name        TEXT    PRIMARY KEY,
  holder      TEXT,
  lease_until INTEGER NOT NULL,
  began_at    INTEGER,
  ended_at    INTEGER NOT NULL,
  took        INTEGER,
  result      TEXT,
  error       TEXT
) WITHOUT ROWID;
