-- compatible: 3

-- What was deleted and can be taken back for a while. id is what the manifest had, and gets again. A manifest is either
-- in its repository or in the trash. The triggers hold that, and that what lies in the trash keeps its blobs and its repository,
-- also where an older Berth makes the change.
CREATE TABLE trashed_manifest (
  id            INTEGER PRIMARY KEY,
  repository_id INTEGER NOT NULL REFERENCES repository (id) ON DELETE RESTRICT,
  digest        TEXT    NOT NULL,
  media_type    TEXT    NOT NULL,
  size          INTEGER NOT NULL,
  artifact_type TEXT    NOT NULL,
  subject       TEXT,
  annotations   TEXT,
  created_at    INTEGER NOT NULL,
  body          BLOB    NOT NULL,
  deleted_at    INTEGER NOT NULL,
  actor         TEXT    NOT NULL,
  credential    TEXT    NOT NULL,
  method        TEXT    NOT NULL,
  UNIQUE (repository_id, digest)
);
CREATE INDEX trashed_manifest_time ON trashed_manifest (deleted_at, id);
CREATE INDEX trashed_manifest_repository ON trashed_manifest (repository_id, deleted_at, id);
CREATE INDEX trashed_manifest_subject ON trashed_manifest (repository_id, subject) WHERE subject IS NOT NULL;

-- The collector's lock, as manifest_blob.
CREATE TABLE trashed_manifest_blob (
  manifest_id   INTEGER NOT NULL REFERENCES trashed_manifest (id) ON DELETE CASCADE,
  blob_id       INTEGER NOT NULL,
  repository_id INTEGER NOT NULL,
  PRIMARY KEY (manifest_id, blob_id),
  FOREIGN KEY (repository_id, blob_id) REFERENCES repository_blob (repository_id, blob_id) ON DELETE RESTRICT
) WITHOUT ROWID;
CREATE INDEX trashed_manifest_blob_blob ON trashed_manifest_blob (repository_id, blob_id);

-- The tags that a manifest lost when it was deleted.
CREATE TABLE trashed_tag (
  manifest_id INTEGER NOT NULL REFERENCES trashed_manifest (id) ON DELETE CASCADE,
  name        TEXT    NOT NULL,
  PRIMARY KEY (manifest_id, name)
) WITHOUT ROWID;

CREATE TRIGGER manifest_not_in_trash AFTER INSERT ON manifest BEGIN
  DELETE FROM trashed_manifest WHERE repository_id = NEW.repository_id AND digest = NEW.digest;
END;
CREATE TRIGGER trash_keeps_link BEFORE DELETE ON repository_blob
WHEN EXISTS (SELECT 1 FROM trashed_manifest_blob WHERE repository_id = OLD.repository_id AND blob_id = OLD.blob_id) BEGIN
  SELECT RAISE(IGNORE);
END;
CREATE TRIGGER trash_keeps_repository BEFORE DELETE ON repository
WHEN EXISTS (SELECT 1 FROM trashed_manifest WHERE repository_id = OLD.id) BEGIN
  SELECT RAISE(IGNORE);
END;
CREATE TRIGGER trash_needs_link AFTER UPDATE OF unreferenced_since ON repository_blob
WHEN NEW.unreferenced_since IS NOT NULL
  AND EXISTS (SELECT 1 FROM trashed_manifest_blob WHERE repository_id = NEW.repository_id AND blob_id = NEW.blob_id) BEGIN
  UPDATE repository_blob SET unreferenced_since = NULL WHERE repository_id = NEW.repository_id AND blob_id = NEW.blob_id;
END;

-- The name of what the actor signed in with. A repository's log is found by its name, which may have been given again since.
ALTER TABLE tag_log ADD COLUMN credential TEXT NOT NULL DEFAULT '';
DROP INDEX tag_log_tag;
CREATE INDEX tag_log_moves ON tag_log (repository, tag, at, id);
CREATE INDEX tag_log_time ON tag_log (repository, at, id);
