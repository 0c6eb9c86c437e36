// Makes the replica set of BKM_MONGO_HOSTS, the roles of roles.json and its users. May be run again at any time: it adds
// members that are named and missing, and sets roles and passwords to what roles.json and .env say.
//
//   mongosh --nodb --quiet --file init.js

const env = process.env;
const hosts = env.BKM_MONGO_HOSTS.split(",");
const database = env.BKM_DATABASE;
const PATIENCE_MS = 120_000;
const PAUSE_MS = 500;
const NOT_YET_INITIALIZED = 94;

const url = (host, options) =>
  `mongodb://operator:${encodeURIComponent(env.BKM_OPERATOR_PASSWORD)}@${host}/admin?serverSelectionTimeoutMS=2000&${options}`;

function eventually(what, act) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    try {
      // Not returned at once: mongosh would wait for it outside of this `try`.
      const answer = act();
      return answer;
    } catch (cause) {
      if (Date.now() > end) throw new Error(`${what}: ${cause.message}`);
      sleep(PAUSE_MS);
    }
  }
}

function initiate() {
  const first = connect(url(hosts[0], "directConnection=true"));
  try {
    first.adminCommand({ replSetGetStatus: 1 });
  } catch (cause) {
    if (cause.code !== NOT_YET_INITIALIZED) throw cause;
    // The first member is preferred, so that the address published on this host stays the primary's.
    const members = hosts.map((host, n) => ({ _id: n, host, priority: n === 0 ? 2 : 1 }));
    // A set that has chosen its next primary before a writer's patience (two thirds of CC_LEASE_MS) ends costs no error.
    const settings = { electionTimeoutMillis: 5000 };
    first.adminCommand({ replSetInitiate: { _id: "rs0", members, settings } });
    print(`made the replica set of ${hosts.join(", ")}`);
  }
}

function primary() {
  const found = connect(url(hosts.join(","), "replicaSet=rs0"));
  if (!found.hello().isWritablePrimary) throw new Error("no primary yet");
  return found;
}

function addMissing(admin) {
  const config = admin.adminCommand({ replSetGetConfig: 1 }).config;
  const missing = hosts.filter((host) => !config.members.some((member) => member.host === host));
  if (missing.length === 0) return;
  // One at a time: a majority of the old set and one of the new must have a member in common.
  const next = Math.max(...config.members.map((member) => member._id)) + 1;
  config.members.push({ _id: next, host: missing[0], priority: 1 });
  config.version += 1;
  admin.adminCommand({ replSetReconfig: config });
  print(`added ${missing[0]}`);
  if (missing.length > 1) throw new Error("more members to add");
}

function setUser(admin, user, pwd, roles) {
  if (!pwd) throw new Error(`the password of ${user} is empty`);
  if (admin.getUser(user)) admin.updateUser(user, { pwd, roles });
  else admin.createUser({ user, pwd, roles });
}

// What a role may do: actions by collection; `*documents` stands for the collections of all domains, `*database` for any,
// `*cluster` for what concerns the servers.
function privileges(role, documents) {
  const on = (name) => (name === "*documents" ? documents : [name === "*database" ? "" : name]);
  return Object.entries(role).flatMap(([name, actions]) =>
    name === "*cluster"
      ? [{ resource: { cluster: true }, actions }]
      : on(name).map((collection) => ({ resource: { db: database, collection }, actions })),
  );
}

function setRoles(admin) {
  const { documents, roles } = JSON.parse(require("fs").readFileSync("/ops/mongo-init/roles.json", "utf8"));
  for (const [name, role] of Object.entries(roles)) {
    const made = { privileges: privileges(role, documents), roles: [] };
    if (admin.getRole(name)) admin.updateRole(name, made);
    else admin.createRole({ role: name, ...made });
  }
}

eventually("the replica set", initiate);
const admin = eventually("the primary", primary);
eventually("the members", () => addMissing(admin));
setRoles(admin);
setUser(admin, "strategy", env.BKM_STRATEGY_PASSWORD, ["bkm-strategy"]);
setUser(admin, "consumer", env.BKM_CONSUMER_PASSWORD, ["bkm-consumer"]);
setUser(admin, "worker", env.BKM_WORKER_PASSWORD, ["bkm-worker", "clusterMonitor", { role: "read", db: "local" }]);
setUser(admin, "monitor", env.BKM_MONITOR_PASSWORD, ["clusterMonitor", { role: "read", db: "local" }]);
print(`users of ${database} are as in .env`);
