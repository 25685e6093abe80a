// gRPC client of a running agent for the commands. Turns refusals and connection failures into
// messages for the user of the command.
import {
  Metadata,
  status as grpcStatus,
  type CallOptions,
  type ClientUnaryCall,
  type ServiceError,
} from "@grpc/grpc-js";
import type { Duration } from "../../gen/google/protobuf/duration.ts";
import type { Disk } from "../../gen/storagenode/v1/disk.ts";
import type { Export } from "../../gen/storagenode/v1/export.ts";
import type { Controller } from "../../gen/storagenode/v1/node.ts";
import {
  StorageNodeClient,
  type AdmitDiskRequest,
  type AdmitDiskResponse,
  type AdoptDiskRequest,
  type AdoptDiskResponse,
  type ConfirmHostsRequest,
  type ConfirmHostsResponse,
  type CordonRequest,
  type CordonResponse,
  type DeleteRequest,
  type DeleteResponse,
  type ExplainRequest,
  type ExplainResponse,
  type GetDiskRequest,
  type GetDiskResponse,
  type GetHealthResponse,
  type GetNodeResponse,
  type LocateDiskRequest,
  type LocateDiskResponse,
  type ReleaseDiskRequest,
  type ReleaseDiskResponse,
  type UncordonRequest,
  type UncordonResponse,
  type WipeDiskRequest,
  type WipeDiskResponse,
} from "../../gen/storagenode/v1/storage_node.ts";
import type { AgentAddress } from "./agent-address.ts";

/** Deadline of a call, beside what it is to wait for. The agent answers at once, so a slower one has a problem. */
const ANSWER_MS = 10_000;
const DETAILS_KEY = "grpc-status-details-bin";
const MAX_PAGE = 500;

/** The agent refused the call, or did not answer. */
export class AgentFault extends Error {
  /** True: the agent refused; false: it did not answer. */
  readonly refused: boolean;

  constructor(message: string, options: { readonly refused: boolean; readonly cause: unknown }) {
    super(message, { cause: options.cause });
    this.name = "AgentFault";
    this.refused = options.refused;
  }
}

type Unary<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;

/** Each call throws AgentFault. */
export class AgentClient implements Disposable {
  readonly #rpc: StorageNodeClient;
  readonly #at: AgentAddress;

  /** Throws AgentFault if it can be no address. */
  constructor(at: AgentAddress) {
    const { target, credentials, options, shown } = at;
    this.#at = at;
    try {
      this.#rpc = new StorageNodeClient(target, credentials, options);
    } catch (cause) {
      throw new AgentFault(`${JSON.stringify(shown)} is not HOST:PORT`, { refused: false, cause });
    }
  }

  async explain(request: ExplainRequest): Promise<ExplainResponse> {
    return await this.#ask(this.#rpc.explain.bind(this.#rpc), request);
  }

  async getNode(): Promise<GetNodeResponse> {
    return await this.#ask(this.#rpc.getNode.bind(this.#rpc), {});
  }

  async getHealth(): Promise<GetHealthResponse> {
    return await this.#ask(this.#rpc.getHealth.bind(this.#rpc), {});
  }

  async listDisks(): Promise<readonly Disk[]> {
    return await allPages(async (page) => {
      const { disks, nextPageToken } = await this.#ask(this.#rpc.listDisks.bind(this.#rpc), page);
      return { items: disks, nextPageToken };
    });
  }

  async listControllers(): Promise<readonly Controller[]> {
    return await allPages(async (page) => {
      const listed = await this.#ask(this.#rpc.listControllers.bind(this.#rpc), page);
      return { items: listed.controllers, nextPageToken: listed.nextPageToken };
    });
  }

  async listExports(): Promise<readonly Export[]> {
    return await allPages(async (page) => {
      const request = { ...page, hostNqn: "" };
      const listed = await this.#ask(this.#rpc.listExports.bind(this.#rpc), request);
      return { items: listed.exports, nextPageToken: listed.nextPageToken };
    });
  }

  async confirmHosts(request: ConfirmHostsRequest): Promise<ConfirmHostsResponse> {
    return await this.#ask(this.#rpc.confirmHosts.bind(this.#rpc), request);
  }

  async getDisk(request: GetDiskRequest): Promise<GetDiskResponse> {
    return await this.#ask(this.#rpc.getDisk.bind(this.#rpc), request);
  }

  async admitDisk(request: AdmitDiskRequest): Promise<AdmitDiskResponse> {
    return await this.#ask(this.#rpc.admitDisk.bind(this.#rpc), request, request.waitTimeout);
  }

  async adoptDisk(request: AdoptDiskRequest): Promise<AdoptDiskResponse> {
    return await this.#ask(this.#rpc.adoptDisk.bind(this.#rpc), request, request.waitTimeout);
  }

  async releaseDisk(request: ReleaseDiskRequest): Promise<ReleaseDiskResponse> {
    return await this.#ask(this.#rpc.releaseDisk.bind(this.#rpc), request, request.waitTimeout);
  }

  async wipeDisk(request: WipeDiskRequest): Promise<WipeDiskResponse> {
    return await this.#ask(this.#rpc.wipeDisk.bind(this.#rpc), request, request.waitTimeout);
  }

  async locateDisk(request: LocateDiskRequest): Promise<LocateDiskResponse> {
    return await this.#ask(this.#rpc.locateDisk.bind(this.#rpc), request);
  }

  async cordon(request: CordonRequest): Promise<CordonResponse> {
    return await this.#ask(this.#rpc.cordon.bind(this.#rpc), request);
  }

  async uncordon(request: UncordonRequest): Promise<UncordonResponse> {
    return await this.#ask(this.#rpc.uncordon.bind(this.#rpc), request);
  }

  async delete(request: DeleteRequest): Promise<DeleteResponse> {
    return await this.#ask(this.#rpc.delete.bind(this.#rpc), request, request.waitTimeout);
  }

  [Symbol.dispose](): void {
    this.#rpc.close();
  }

  #ask<Request, Response>(
    method: Unary<Request, Response>,
    request: Request,
    wait?: Duration,
  ): Promise<Response> {
    const limitMs = ANSWER_MS + Number(wait?.seconds ?? 0n) * 1_000;
    const deadline = Date.now() + limitMs;
    return new Promise((resolve, reject) => {
      method(request, new Metadata(), { deadline }, (error, response) => {
        if (error === null) resolve(response);
        else reject(faultOf(error, this.#at, limitMs));
      });
    });
  }
}

async function allPages<Item>(
  next: (page: { readonly pageSize: number; readonly pageToken: string }) => Promise<{
    readonly items: readonly Item[];
    readonly nextPageToken: string;
  }>,
): Promise<readonly Item[]> {
  const all: Item[] = [];
  let pageToken = "";
  do {
    const page = await next({ pageSize: MAX_PAGE, pageToken });
    all.push(...page.items);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  return all;
}

/**
 * A refusal carries status details and a message; an error without them comes from the connection.
 */
function faultOf(error: ServiceError, at: AgentAddress, limitMs: number): AgentFault {
  const refused = error.metadata.get(DETAILS_KEY).length > 0;
  const message = refused ? error.details : noAnswer(error, at, limitMs);
  return new AgentFault(message, { refused, cause: error });
}

function noAnswer(
  { code, details }: ServiceError,
  { shown: address, plain }: AgentAddress,
  limitMs: number,
): string {
  if (code === grpcStatus.DEADLINE_EXCEEDED) {
    const limit = `${limitMs / 1_000} s`;
    return `no answer from ${address} within ${limit}; is the agent overloaded or stopped?`;
  }
  if (code === grpcStatus.UNAVAILABLE) {
    const hint = plain ? " If it speaks TLS, --ca is needed." : "";
    return `nothing answers at ${address}; is the agent running? (${details})${hint}`;
  }
  return `the server at ${address} is not an agent of this version (${grpcStatus[code]}: ${details})`;
}
