-- compatible: 3

-- When tags and manifests were pulled last, by GET or HEAD. They are tables of their own, so that noting a pull rewrites no row that holds a body; the
-- foreign keys take the rows away whoever deletes what they tell of. Of a manifest it is noted, too, when it was pushed again or taken out of the trash, and when
-- something that needed it went: a tag, an index, what it refers to.
CREATE TABLE tag_pull (
  repository_id INTEGER NOT NULL,
  name          TEXT    NOT NULL,
  pulled_at     INTEGER NOT NULL,
  PRIMARY KEY (repository_id, name),
  FOREIGN KEY (repository_id, name) REFERENCES tag (repository_id, name) ON DELETE CASCADE
) WITHOUT ROWID;

CREATE TABLE manifest_use (
  manifest_id INTEGER PRIMARY KEY REFERENCES manifest (id) ON DELETE CASCADE,
  pulled_at   INTEGER,
  pushed_at   INTEGER,
  released_at INTEGER
);

-- Of what lies in the trash.
ALTER TABLE trashed_manifest ADD COLUMN pulled_at INTEGER;
ALTER TABLE trashed_tag ADD COLUMN pulled_at INTEGER;

-- Since when pulls are noted in this database: before that, nothing is known to have been idle.
CREATE TABLE pull_record (
  since INTEGER NOT NULL
);
INSERT INTO pull_record (since) VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER));

-- What is kept of repositories. organization is the first part of names, or empty for all; repositories are patterns with spaces between, tags a JSON
-- array of patterns, rules JSON.
CREATE TABLE retention_policy (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  organization TEXT NOT NULL,
  repositories TEXT NOT NULL,
  tags         TEXT NOT NULL,
  rules        TEXT NOT NULL,
  created_at   INTEGER NOT NULL,
  created_by   TEXT NOT NULL
);
CREATE INDEX retention_policy_organization ON retention_policy (organization, id);
