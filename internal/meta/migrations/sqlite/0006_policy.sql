-- compatible: 3

-- What holds for content whoever changes it. organization is the first part of names, or empty for all; no row of it is needed.

-- Tags that stay as they are. repositories are patterns with spaces between, tags a JSON array of patterns.
CREATE TABLE tag_protection (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  organization TEXT NOT NULL,
  repositories TEXT NOT NULL,
  tags         TEXT NOT NULL,
  created_at   INTEGER NOT NULL,
  created_by   TEXT NOT NULL
);
CREATE INDEX tag_protection_organization ON tag_protection (organization, id);

-- Who wants to change something meanwhile is told the message.
CREATE TABLE content_freeze (
  organization TEXT PRIMARY KEY,
  message      TEXT NOT NULL,
  since        INTEGER NOT NULL,
  created_by   TEXT NOT NULL
) WITHOUT ROWID;
