-- compatible: 3

-- What has changed and is not in the journal in the storage yet. A row names a thing whose state is to be written there; it goes once
-- that is durable. Triggers fill it, so that no change can be forgotten, nor one that an older Berth makes. Numbers are never used
-- again: the later number of the same thing is the later change. ref is the digest of a link or manifest, or the id in the log of
-- tags.
CREATE TABLE journal (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  kind          TEXT    NOT NULL,
  repository_id INTEGER NOT NULL,
  ref           TEXT    NOT NULL,
  at            INTEGER NOT NULL
);

CREATE TRIGGER repository_journal_insert AFTER INSERT ON repository BEGIN
  INSERT INTO journal (kind, repository_id, ref, at) VALUES ('repository', NEW.id, '', CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
CREATE TRIGGER repository_journal_update AFTER UPDATE OF public ON repository BEGIN
  INSERT INTO journal (kind, repository_id, ref, at) VALUES ('repository', NEW.id, '', CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
CREATE TRIGGER repository_journal_delete AFTER DELETE ON repository BEGIN
  INSERT INTO journal (kind, repository_id, ref, at) VALUES ('repository', OLD.id, '', CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;

CREATE TRIGGER link_journal_insert AFTER INSERT ON repository_blob BEGIN
  INSERT INTO journal (kind, repository_id, ref, at)
    SELECT 'link', NEW.repository_id, digest, CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM blob WHERE id = NEW.blob_id;
END;
CREATE TRIGGER link_journal_delete AFTER DELETE ON repository_blob BEGIN
  INSERT INTO journal (kind, repository_id, ref, at)
    SELECT 'link', OLD.repository_id, digest, CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM blob WHERE id = OLD.blob_id;
END;
-- A blob whose broken bytes were replaced.
CREATE TRIGGER blob_journal_update AFTER UPDATE OF storage_key, size ON blob BEGIN
  INSERT INTO journal (kind, repository_id, ref, at)
    SELECT 'link', repository_id, NEW.digest, CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM repository_blob WHERE blob_id = NEW.id;
END;

CREATE TRIGGER manifest_journal_insert AFTER INSERT ON manifest BEGIN
  INSERT INTO journal (kind, repository_id, ref, at)
    VALUES ('manifest', NEW.repository_id, NEW.digest, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
CREATE TRIGGER manifest_journal_delete AFTER DELETE ON manifest BEGIN
  INSERT INTO journal (kind, repository_id, ref, at)
    VALUES ('manifest', OLD.repository_id, OLD.digest, CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;

CREATE TRIGGER tag_journal_insert AFTER INSERT ON tag_log BEGIN
  INSERT INTO journal (kind, repository_id, ref, at)
    VALUES ('move', NEW.repository_id, CAST(NEW.id AS TEXT), CAST(unixepoch('subsec') * 1000 AS INTEGER));
END;
