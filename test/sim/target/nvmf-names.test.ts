// What SPDK takes for the NQN of a host (docs/spdk-contract.md#nqn-rules), for a listen address and
// for a transport; and how a list of subsystems ends that is too long.
import { once } from "node:events";
import { connect } from "node:net";
import { describe, expect, it } from "vitest";
import { isNqn } from "../../../src/sim/target/nvmf-names.ts";
import { inProcessTarget } from "../../support/in-process-target.ts";
import { exported, NQN } from "../host/export-scenario.ts";
import { ask } from "../raw-rpc.ts";

const LABEL = "a".repeat(63);
const UUID = "nqn.2014-08.org.nvmexpress:uuid:";

describe("the NQN of a host", () => {
  it.each([
    ["of a domain and a name", "nqn.2014-08.org.x:host"],
    ["with a month that does not exist", "nqn.2014-13.org.x:host"],
    ["with blanks, underscores and upper case", "nqn.2014-08.ORG.X:My host_1"],
    ["with a name beyond ASCII", "nqn.2014-08.org.x:größe"],
    ["with a uuid", `${UUID}0b1c2d3e-0000-4000-8000-0123456789AB`],
    ["with a label of 63 characters", `nqn.2014-08.org.${LABEL}:x`],
    ["with hyphens and digits inside a label", "nqn.2014-08.o-9.x:host"],
    ["of 223 bytes", `nqn.2014-08.org.x:${"h".repeat(223 - 18)}`],
    ["of discovery", "nqn.2014-08.org.nvmexpress.discovery"],
  ])("%s is valid", (_what, nqn) => {
    expect(isNqn(nqn)).toBe(true);
  });

  it.each([
    ["without a name", "nqn.2014-08.org.x:"],
    ["without a colon", "nqn.2014-08.org.x"],
    ["without nqn", "iqn.2014-08.org.x:host"],
    ["without a month", "nqn.2014.org.x:host"],
    ["with a label that begins with a digit", "nqn.2014-08.9o.x:host"],
    ["with a label that ends with a hyphen", "nqn.2014-08.o-.x:host"],
    ["with an empty label", "nqn.2014-08.org..x:host"],
    ["with an underscore in the domain", "nqn.2014-08.or_g.x:host"],
    ["with a label of 64 characters", `nqn.2014-08.org.${LABEL}a:x`],
    ["with a malformed uuid", `${UUID}0b1c2d3e-0000-4000-8000-0123456789a`],
    ["with more behind its uuid", `${UUID}0b1c2d3e-0000-4000-8000-0123456789ab1`],
    ["of 224 bytes", `nqn.2014-08.org.x:${"h".repeat(224 - 18)}`],
    ["that is empty", ""],
  ])("%s is refused", (_what, nqn) => {
    expect(isNqn(nqn)).toBe(false);
  });
});

describe("a target refuses", () => {
  it("a malformed host, an address of another machine and a transport without a device", async () => {
    await using target = await inProcessTarget();
    await exported(target.socket);
    const listener = { trtype: "TCP", adrfam: "IPv4", traddr: "198.51.100.1", trsvcid: "4420" };
    const refused = [
      await ask(target.socket, "nvmf_subsystem_add_host", { nqn: NQN, host: "host" }),
      await ask(target.socket, "nvmf_subsystem_add_listener", {
        nqn: NQN,
        listen_address: listener,
      }),
      await ask(target.socket, "nvmf_create_transport", { trtype: "RDMA" }),
    ];
    expect(refused).toMatchObject([
      { error: { code: -32603, message: "Internal error" } },
      { error: { code: -32602, message: "Invalid parameters" } },
      { error: { code: -32603, message: "Failed to create transport." } },
    ]);
  });

  it("a string that is not UTF-8 by closing the connection", async () => {
    await using target = await inProcessTarget();
    const socket = connect(target.socket);
    const [head, tail] = ['{"id":1,"method":"bdev_get_bdevs","params":{"name":"', '"}}'];
    socket.write(Buffer.concat([Buffer.from(head), Buffer.from([0xff]), Buffer.from(tail)]));
    await once(socket.resume(), "close");
    expect(socket.bytesRead).toBe(0);
  });
});

it("a list of subsystems of more than 32 MiB is cut there, without a newline", async () => {
  await using target = await inProcessTarget();
  await exported(target.socket);
  const subsystem = target.state().subsystems.get(NQN);
  expect(subsystem).toBeDefined();
  const host = (index: number) => `nqn.2014-08.org.x:${String(index).padStart(200, "0")}`;
  if (subsystem !== undefined)
    subsystem.hosts = Array.from({ length: 160_000 }, (_, at) => host(at));
  const socket = connect(target.socket);
  socket.write('{"jsonrpc":"2.0","id":1,"method":"nvmf_get_subsystems"}');
  let bytes = 0;
  let last = "";
  for await (const chunk of socket.setEncoding("latin1")) {
    last = String(chunk);
    bytes += last.length;
    if (bytes >= 33_554_432) break;
  }
  expect(bytes).toBe(33_554_432);
  expect(last.endsWith("\n")).toBe(false);
  socket.destroy();
});
