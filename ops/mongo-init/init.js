// Makes the replica set of BKM_MONGO_HOSTS and its users. May be run again at any time: it adds members that are named
// and missing, and sets the users' passwords and roles to what .env says.
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

eventually("the replica set", initiate);
const admin = eventually("the primary", primary);
eventually("the members", () => addMissing(admin));
const data = { role: "readWrite", db: database };
setUser(admin, "strategy", env.BKM_STRATEGY_PASSWORD, [data]);
setUser(admin, "worker", env.BKM_WORKER_PASSWORD, [data, "clusterMonitor"]);
setUser(admin, "monitor", env.BKM_MONITOR_PASSWORD, ["clusterMonitor", { role: "read", db: "local" }]);
print(`users of ${database} are as in .env`);
