-- Times are milliseconds since 1970 in UTC. Identifiers are never reused (AUTOINCREMENT),
-- so that whatever hangs on one cannot fall to its successor.

-- Small facts of the installation: the key that signs upload sessions, how far
-- the storage has been swept.
CREATE TABLE setting (
  name  TEXT PRIMARY KEY,
  value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE repository (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  name       TEXT    NOT NULL UNIQUE,
  created_at INTEGER NOT NULL
);

-- A row exists exactly as long as its bytes do. storage_key is what the blob store
-- knows them by; it is never used for other bytes.
CREATE TABLE blob (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  digest      TEXT    NOT NULL UNIQUE,
  size        INTEGER NOT NULL,
  storage_key TEXT    NOT NULL UNIQUE,
  created_at  INTEGER NOT NULL
);

-- How much is stored, kept by triggers, so that asking costs one row.
CREATE TABLE total (
  blobs INTEGER NOT NULL,
  bytes INTEGER NOT NULL
);
INSERT INTO total (blobs, bytes) VALUES (0, 0);
CREATE TRIGGER blob_inserted AFTER INSERT ON blob BEGIN
  UPDATE total SET blobs = blobs + 1, bytes = bytes + NEW.size;
END;
CREATE TRIGGER blob_deleted AFTER DELETE ON blob BEGIN
  UPDATE total SET blobs = blobs - 1, bytes = bytes - OLD.size;
END;

-- The blobs that a repository has. unreferenced_since is null while a manifest
-- of the repository needs the blob; else the grace period runs from it.
CREATE TABLE repository_blob (
  repository_id      INTEGER NOT NULL REFERENCES repository (id) ON DELETE RESTRICT,
  blob_id            INTEGER NOT NULL REFERENCES blob (id) ON DELETE RESTRICT,
  unreferenced_since INTEGER,
  PRIMARY KEY (repository_id, blob_id)
) WITHOUT ROWID;
CREATE INDEX repository_blob_blob ON repository_blob (blob_id);
CREATE INDEX repository_blob_unreferenced ON repository_blob (unreferenced_since)
  WHERE unreferenced_since IS NOT NULL;

-- artifact_type is what the referrers API answers, subject what it asks for.
CREATE TABLE manifest (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  repository_id INTEGER NOT NULL REFERENCES repository (id) ON DELETE RESTRICT,
  digest        TEXT    NOT NULL,
  media_type    TEXT    NOT NULL,
  size          INTEGER NOT NULL,
  artifact_type TEXT    NOT NULL,
  subject       TEXT,
  annotations   TEXT,
  created_at    INTEGER NOT NULL,
  body          BLOB    NOT NULL,
  UNIQUE (repository_id, digest)
);
CREATE INDEX manifest_subject ON manifest (repository_id, subject, id) WHERE subject IS NOT NULL;

-- The collector's lock: a blob cannot leave a repository while a manifest there needs it.
CREATE TABLE manifest_blob (
  manifest_id   INTEGER NOT NULL REFERENCES manifest (id) ON DELETE CASCADE,
  blob_id       INTEGER NOT NULL,
  repository_id INTEGER NOT NULL,
  PRIMARY KEY (manifest_id, blob_id),
  FOREIGN KEY (repository_id, blob_id) REFERENCES repository_blob (repository_id, blob_id) ON DELETE RESTRICT
) WITHOUT ROWID;
CREATE INDEX manifest_blob_blob ON manifest_blob (repository_id, blob_id);

-- Blobs that a manifest names and its repository lacks: foreign layers, and parts
-- of sparse images. When such a blob arrives, its row moves to manifest_blob.
CREATE TABLE manifest_missing_blob (
  repository_id INTEGER NOT NULL,
  digest        TEXT    NOT NULL,
  manifest_id   INTEGER NOT NULL REFERENCES manifest (id) ON DELETE CASCADE,
  PRIMARY KEY (repository_id, digest, manifest_id)
) WITHOUT ROWID;
CREATE INDEX manifest_missing_blob_manifest ON manifest_missing_blob (manifest_id);

-- The children of an index, by digest, because a sparse index may name what is not here.
CREATE TABLE manifest_child (
  manifest_id   INTEGER NOT NULL REFERENCES manifest (id) ON DELETE CASCADE,
  digest        TEXT    NOT NULL,
  repository_id INTEGER NOT NULL,
  PRIMARY KEY (manifest_id, digest)
) WITHOUT ROWID;
CREATE INDEX manifest_child_digest ON manifest_child (repository_id, digest);

CREATE TABLE tag (
  repository_id INTEGER NOT NULL REFERENCES repository (id) ON DELETE RESTRICT,
  name          TEXT    NOT NULL,
  manifest_id   INTEGER NOT NULL REFERENCES manifest (id) ON DELETE RESTRICT,
  updated_at    INTEGER NOT NULL,
  PRIMARY KEY (repository_id, name)
) WITHOUT ROWID;
CREATE INDEX tag_manifest ON tag (manifest_id);

-- Every move of every tag. No foreign keys: the log outlives what it tells of.
CREATE TABLE tag_log (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  repository_id INTEGER NOT NULL,
  repository    TEXT    NOT NULL,
  tag           TEXT    NOT NULL,
  old_digest    TEXT,
  new_digest    TEXT,
  at            INTEGER NOT NULL,
  actor         TEXT    NOT NULL,
  method        TEXT    NOT NULL
);
CREATE INDEX tag_log_tag ON tag_log (repository_id, tag, id);

-- Upload sessions that hold bytes, or that were cancelled (storage_key is null).
CREATE TABLE upload (
  id           TEXT    PRIMARY KEY,
  repository   TEXT    NOT NULL,
  storage_key  TEXT    UNIQUE,
  size         INTEGER NOT NULL,
  algorithm    TEXT    NOT NULL,
  hash_state   BLOB,
  store_state  BLOB,
  created_at   INTEGER NOT NULL,
  updated_at   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX upload_updated ON upload (updated_at);

-- Bytes to delete. A row goes when its bytes are gone for sure.
CREATE TABLE doomed_object (
  storage_key TEXT    PRIMARY KEY,
  since       INTEGER NOT NULL
) WITHOUT ROWID;
