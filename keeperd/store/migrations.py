"""The ledger's schema, one script a version; `PRAGMA user_version` counts them.

A script never changes once released: add another.
"""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE models (
        name TEXT PRIMARY KEY,
        paused TEXT,                        -- why, or NULL
        champion INTEGER,
        predecessor INTEGER,
        golden_sha TEXT,                    -- of the operator's golden file, sealed at first use
        states TEXT NOT NULL DEFAULT '{}'   -- detector -> state carried to its next call
    ) STRICT;
    CREATE TABLE versions (
        model TEXT NOT NULL,
        version INTEGER NOT NULL,
        state TEXT NOT NULL,                -- candidate, champion, retired, rejected, rolled back
        parent INTEGER,
        cycle INTEGER NOT NULL,
        created_at TEXT NOT NULL,
        manifest TEXT,                      -- sha256 of the accepted manifest
        facts TEXT NOT NULL DEFAULT '{}',
        PRIMARY KEY (model, version)
    ) STRICT;
    CREATE TABLE batches (
        model TEXT NOT NULL,
        sha TEXT NOT NULL,
        number INTEGER NOT NULL,            -- 1, 2, 3 ... in order of arrival
        cycle INTEGER NOT NULL,
        frozen_at TEXT NOT NULL,
        rows INTEGER NOT NULL,
        labelled INTEGER NOT NULL,
        status TEXT NOT NULL,               -- new, judged, trained, rejected, suspect, bad
        version INTEGER,                    -- that was trained on it
        PRIMARY KEY (model, sha)
    ) STRICT;
    CREATE TABLE files (
        id INTEGER PRIMARY KEY,
        model TEXT NOT NULL,
        path TEXT NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        sha256 TEXT,
        status TEXT NOT NULL,               -- accepted, duplicate, quarantined
        reason TEXT,
        rows INTEGER NOT NULL,
        batch TEXT,
        cycle INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX files_identity ON files (model, sha256) WHERE status = 'accepted';
    CREATE INDEX files_path ON files (model, path, size, mtime_ns, inode);
    CREATE TABLE triggers (
        id INTEGER PRIMARY KEY,
        model TEXT NOT NULL,
        kind TEXT NOT NULL,                 -- init, files, schedule, manual, rollback
        why TEXT NOT NULL,
        at TEXT NOT NULL,
        target INTEGER,                     -- version to roll back to
        cycle INTEGER                       -- that took it; NULL: pending
    ) STRICT;
    CREATE INDEX triggers_pending ON triggers (model) WHERE cycle IS NULL;
    CREATE TABLE cycles (
        id INTEGER PRIMARY KEY,
        model TEXT NOT NULL,
        state TEXT NOT NULL,
        trigger TEXT NOT NULL,
        why TEXT NOT NULL,
        opened_at TEXT NOT NULL,
        state_since TEXT NOT NULL,
        closed_at TEXT,
        attempt INTEGER NOT NULL DEFAULT 1,
        retry_at TEXT,
        answer TEXT,                        -- approve or reject, by the operator
        facts TEXT NOT NULL DEFAULT '{}'
    ) STRICT;
    CREATE UNIQUE INDEX cycles_one_open ON cycles (model) WHERE closed_at IS NULL;
    CREATE INDEX cycles_model ON cycles (model, id);
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY,
        cycle INTEGER NOT NULL,
        model TEXT NOT NULL,
        kind TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        state TEXT NOT NULL,                -- started, succeeded, failed
        pid INTEGER,
        started_at TEXT NOT NULL,
        ended_at TEXT,
        error TEXT,
        UNIQUE (cycle, kind, attempt)
    ) STRICT;
    CREATE INDEX runs_open ON runs (state) WHERE state = 'started';
    CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        at TEXT NOT NULL,
        model TEXT NOT NULL,
        cycle INTEGER,
        kind TEXT NOT NULL,
        from_state TEXT,
        to_state TEXT,
        why TEXT NOT NULL,
        facts TEXT NOT NULL DEFAULT '{}'
    ) STRICT;
    CREATE INDEX events_model ON events (model, id);
    CREATE INDEX events_cycle ON events (cycle, id);
    CREATE TABLE deliveries (
        id INTEGER PRIMARY KEY,
        notifier TEXT NOT NULL,
        model TEXT NOT NULL,
        kind TEXT NOT NULL,
        events TEXT NOT NULL,               -- ids, oldest first
        message_id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,                -- pending, sent, expired
        created_at TEXT NOT NULL,
        next_at TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        result TEXT                         -- where it went, or the last error
    ) STRICT;
    CREATE INDEX deliveries_pending ON deliveries (next_at) WHERE state = 'pending';
    CREATE TABLE outbox (planned INTEGER NOT NULL) STRICT;  -- last event that deliveries were made for
    INSERT INTO outbox VALUES (0);
    CREATE TABLE hearing (                  -- how far each event hook has got
        plugin TEXT PRIMARY KEY,
        heard INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE measurements (
        id INTEGER PRIMARY KEY,
        model TEXT NOT NULL,
        version INTEGER NOT NULL,
        at TEXT NOT NULL,
        source TEXT NOT NULL,               -- verify, probation, intake
        rows INTEGER NOT NULL,
        accuracy REAL,
        latency_ms REAL
    ) STRICT;
    CREATE INDEX measurements_version ON measurements (model, version);
    """,
)
