-- compatible: 2

-- When tags and manifests were pulled last, by GET or HEAD. They are tables of their own, so that noting a pull rewrites no row that holds a body; the
-- foreign keys take the rows away whoever deletes what they tell of. Rows are changed often and have no index on the time, so that a change stays on its page.
CREATE TABLE tag_pull (
  repository_id BIGINT NOT NULL,
  name          TEXT COLLATE "C" NOT NULL,
  pulled_at     BIGINT NOT NULL,
  PRIMARY KEY (repository_id, name),
  FOREIGN KEY (repository_id, name) REFERENCES tag (repository_id, name) ON DELETE CASCADE
) WITH (fillfactor = 80);

CREATE TABLE manifest_pull (
  manifest_id BIGINT PRIMARY KEY REFERENCES manifest (id) ON DELETE CASCADE,
  pulled_at   BIGINT NOT NULL
) WITH (fillfactor = 80);
