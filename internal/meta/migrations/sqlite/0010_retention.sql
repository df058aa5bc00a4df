-- compatible: 3

-- When tags and manifests were pulled last, by GET or HEAD. They are tables of their own, so that noting a pull rewrites no row that holds a body; the
-- foreign keys take the rows away whoever deletes what they tell of.
CREATE TABLE tag_pull (
  repository_id INTEGER NOT NULL,
  name          TEXT    NOT NULL,
  pulled_at     INTEGER NOT NULL,
  PRIMARY KEY (repository_id, name),
  FOREIGN KEY (repository_id, name) REFERENCES tag (repository_id, name) ON DELETE CASCADE
) WITHOUT ROWID;

CREATE TABLE manifest_pull (
  manifest_id INTEGER PRIMARY KEY REFERENCES manifest (id) ON DELETE CASCADE,
  pulled_at   INTEGER NOT NULL
);

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
