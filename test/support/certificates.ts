// Certificates for tests, made anew in each run: an authority, and what it signs.
// @peculiar/x509 needs it before it is loaded itself.
// oxlint-disable-next-line import/no-unassigned-import
import "reflect-metadata";
import {
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  SubjectAlternativeNameExtension,
  X509CertificateGenerator,
  type X509Certificate,
} from "@peculiar/x509";
import { randomBytes, webcrypto } from "node:crypto";

export type KeyPair = {
  /** The certificate, and those of intermediate CAs below it. */
  readonly cert: string;
  readonly key: string;
};

export type Names = {
  readonly dns?: readonly string[];
  readonly uri?: readonly string[];
  readonly ip?: readonly string[];
};

export type Signing = {
  readonly notBefore?: Date;
  readonly notAfter?: Date;
};

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
const HOUR_MS = 3_600_000;

export class Authority {
  readonly #keys: webcrypto.CryptoKeyPair;
  readonly #certificate: X509Certificate;
  /** Sent along with what it signs; empty for a root. */
  readonly #chain: string;

  private constructor(keys: webcrypto.CryptoKeyPair, certificate: X509Certificate, chain: string) {
    this.#keys = keys;
    this.#certificate = certificate;
    this.#chain = chain;
  }

  /** A root, which signs itself. */
  static async root(name = "root"): Promise<Authority> {
    const keys = await newKeys();
    const certificate = await X509CertificateGenerator.createSelfSigned({
      ...validity({}),
      name: `CN=${name}`,
      serialNumber: serial(),
      keys,
      signingAlgorithm: ALGORITHM,
      extensions: [new BasicConstraintsExtension(true, undefined, true)],
    });
    return new Authority(keys, certificate, "");
  }

  /** PEM of its own certificate. */
  get pem(): string {
    return this.#certificate.toString("pem");
  }

  async intermediate(name: string): Promise<Authority> {
    const keys = await newKeys();
    const certificate = await X509CertificateGenerator.create({
      ...validity({}),
      subject: `CN=${name}`,
      issuer: this.#certificate.subject,
      serialNumber: serial(),
      publicKey: keys.publicKey,
      signingKey: this.#keys.privateKey,
      signingAlgorithm: ALGORITHM,
      extensions: [new BasicConstraintsExtension(true, undefined, true)],
    });
    return new Authority(keys, certificate, `${certificate.toString("pem")}\n${this.#chain}`);
  }

  async sign(names: Names, signing: Signing = {}): Promise<KeyPair> {
    const keys = await newKeys();
    const { clientAuth, serverAuth } = ExtendedKeyUsage;
    const certificate = await X509CertificateGenerator.create({
      ...validity(signing),
      subject: "CN=not looked at",
      issuer: this.#certificate.subject,
      serialNumber: serial(),
      publicKey: keys.publicKey,
      signingKey: this.#keys.privateKey,
      signingAlgorithm: ALGORITHM,
      extensions: [
        new ExtendedKeyUsageExtension([clientAuth, serverAuth]),
        new SubjectAlternativeNameExtension(generalNames(names)),
      ],
    });
    const key = await webcrypto.subtle.exportKey("pkcs8", keys.privateKey);
    return {
      cert: `${certificate.toString("pem")}\n${this.#chain}`,
      key: pem("PRIVATE KEY", Buffer.from(key)),
    };
  }
}

function generalNames({ dns = [], uri = [], ip = [] }: Names) {
  return [
    ...dns.map((value) => ({ type: "dns", value }) as const),
    ...uri.map((value) => ({ type: "url", value }) as const),
    ...ip.map((value) => ({ type: "ip", value }) as const),
  ];
}

function validity({ notBefore, notAfter }: Signing) {
  const now = Date.now();
  return {
    notBefore: notBefore ?? new Date(now - HOUR_MS),
    notAfter: notAfter ?? new Date(now + 24 * HOUR_MS),
  };
}

async function newKeys(): Promise<webcrypto.CryptoKeyPair> {
  return await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
}

function serial(): string {
  return randomBytes(8).toString("hex");
}

function pem(label: string, bytes: Buffer): string {
  const lines = bytes.toString("base64").replaceAll(/(.{64})(?=.)/g, "$1\n");
  return `-----BEGIN ${label}-----\n${lines}\n-----END ${label}-----\n`;
}
