-- compatible: 3

-- Who may do what. Rights hang on the identifiers of these rows, which are never reused: what was
-- granted to an account, a team or an organization that is gone falls to nobody.

-- The first part of the names of repositories. Without a row, only administrators have rights there. creation says who
-- may make repositories by pushing: push (whoever may push there), admin or nobody.
CREATE TABLE organization (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  name       TEXT    NOT NULL UNIQUE,
  public     INTEGER NOT NULL,
  creation   TEXT    NOT NULL,
  created_at INTEGER NOT NULL
);

-- public is null where the organization's setting holds.
ALTER TABLE repository ADD COLUMN public INTEGER;

-- Users and robots. source says where the account is kept: local, or the name of a directory or issuer, and subject what
-- it is called there. password is a hash in PHC string format.
CREATE TABLE account (
  id              INTEGER PRIMARY KEY AUTOINCREMENT,
  name            TEXT    NOT NULL UNIQUE,
  robot           INTEGER NOT NULL,
  organization_id INTEGER REFERENCES organization (id) ON DELETE CASCADE,
  source          TEXT    NOT NULL,
  subject         TEXT,
  display_name    TEXT    NOT NULL,
  mail            TEXT    NOT NULL,
  password        TEXT,
  admin           INTEGER NOT NULL,
  disabled        INTEGER NOT NULL,
  networks        TEXT    NOT NULL,
  expires_at      INTEGER,
  created_at      INTEGER NOT NULL,
  seen_at         INTEGER,
  UNIQUE (source, subject)
);
CREATE INDEX account_admin ON account (id) WHERE admin = 1;
CREATE INDEX account_organization ON account (organization_id) WHERE organization_id IS NOT NULL;

-- What an account proves itself with beside a password: tokens of users, secrets of robots, refresh tokens. hash is of the
-- secret, which is random and shown once. actions, repositories and networks narrow what the account may do.
CREATE TABLE credential (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  account_id   INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
  kind         TEXT    NOT NULL,
  name         TEXT    NOT NULL,
  hash         BLOB    NOT NULL UNIQUE,
  actions      INTEGER NOT NULL,
  repositories TEXT    NOT NULL,
  networks     TEXT    NOT NULL,
  created_at   INTEGER NOT NULL,
  expires_at   INTEGER,
  used_at      INTEGER,
  used_from    TEXT    NOT NULL
);
CREATE INDEX credential_account ON credential (account_id, id);
CREATE INDEX credential_expiry ON credential (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE team (
  id              INTEGER PRIMARY KEY AUTOINCREMENT,
  organization_id INTEGER NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
  name            TEXT    NOT NULL,
  created_at      INTEGER NOT NULL,
  UNIQUE (organization_id, name)
);

CREATE TABLE team_member (
  account_id INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
  team_id    INTEGER NOT NULL REFERENCES team (id) ON DELETE CASCADE,
  PRIMARY KEY (account_id, team_id)
) WITHOUT ROWID;
CREATE INDEX team_member_team ON team_member (team_id);

-- Groups of a directory or issuer whose members belong to a team.
CREATE TABLE team_group (
  source  TEXT    NOT NULL,
  name    TEXT    NOT NULL,
  team_id INTEGER NOT NULL REFERENCES team (id) ON DELETE CASCADE,
  PRIMARY KEY (source, name, team_id)
) WITHOUT ROWID;
CREATE INDEX team_group_team ON team_group (team_id);

-- The groups of an account, as its source said last.
CREATE TABLE account_group (
  account_id INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
  source     TEXT    NOT NULL,
  name       TEXT    NOT NULL,
  PRIMARY KEY (account_id, source, name)
) WITHOUT ROWID;

-- What an account or a team may do with the repositories that a pattern matches, within an organization, or in all if
-- organization_id is null. role names a usual set of actions, or is empty.
CREATE TABLE access_grant (
  id              INTEGER PRIMARY KEY AUTOINCREMENT,
  organization_id INTEGER REFERENCES organization (id) ON DELETE CASCADE,
  account_id      INTEGER REFERENCES account (id) ON DELETE CASCADE,
  team_id         INTEGER REFERENCES team (id) ON DELETE CASCADE,
  repositories    TEXT    NOT NULL,
  tags            TEXT    NOT NULL,
  role            TEXT    NOT NULL,
  actions         INTEGER NOT NULL,
  created_at      INTEGER NOT NULL,
  CHECK ((account_id IS NULL) <> (team_id IS NULL))
);
CREATE INDEX access_grant_account ON access_grant (account_id, organization_id) WHERE account_id IS NOT NULL;
CREATE INDEX access_grant_team ON access_grant (team_id, organization_id) WHERE team_id IS NOT NULL;
CREATE INDEX access_grant_organization ON access_grant (organization_id, id);

-- Which tokens of an issuer stand for a robot. Who comes by a rule has its credential, so that both go together.
CREATE TABLE trust_rule (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  account_id    INTEGER NOT NULL REFERENCES account (id) ON DELETE CASCADE,
  credential_id INTEGER NOT NULL UNIQUE REFERENCES credential (id) ON DELETE CASCADE,
  issuer        TEXT    NOT NULL,
  rule          TEXT    NOT NULL,
  created_at    INTEGER NOT NULL
);
CREATE INDEX trust_rule_issuer ON trust_rule (issuer, id);
CREATE INDEX trust_rule_account ON trust_rule (account_id);

-- Keys that sign tokens. One signs, from signs_from on; the others are known until their last token has expired.
CREATE TABLE signing_key (
  kid         TEXT    PRIMARY KEY,
  private     BLOB    NOT NULL,
  signs_from  INTEGER NOT NULL,
  known_until INTEGER NOT NULL
) WITHOUT ROWID;

-- Failed sign-ins by account and by network, so that all nodes slow them down.
CREATE TABLE sign_in_failure (
  subject      TEXT    PRIMARY KEY,
  failures     INTEGER NOT NULL,
  failed_at    INTEGER NOT NULL,
  locked_until INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX sign_in_failure_time ON sign_in_failure (failed_at);

-- Who did what to which object from where. No foreign keys: it outlives what it tells of.
CREATE TABLE audit (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  at         INTEGER NOT NULL,
  account_id INTEGER NOT NULL,
  actor      TEXT    NOT NULL,
  credential TEXT    NOT NULL,
  client     TEXT    NOT NULL,
  action     TEXT    NOT NULL,
  object     TEXT    NOT NULL,
  detail     TEXT    NOT NULL,
  allowed    INTEGER NOT NULL
);
CREATE INDEX audit_time ON audit (at, id);
CREATE INDEX audit_object ON audit (object, at, id);
CREATE INDEX audit_actor ON audit (actor, at, id);

-- An upload goes on for who began it, and for nobody else; 0 stands for who did not sign in.
ALTER TABLE upload ADD COLUMN account_id INTEGER NOT NULL DEFAULT 0;
