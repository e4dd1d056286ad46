-- Run once, by the image, on an empty volume. Each service owns its database and reaches no other.
CREATE ROLE taskapi LOGIN;
CREATE ROLE auditor LOGIN;
CREATE DATABASE tasks OWNER taskapi;
CREATE DATABASE audit OWNER auditor;
REVOKE CONNECT ON DATABASE tasks, audit FROM PUBLIC;
