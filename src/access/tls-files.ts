// The files of TLS: the certificate and the key of this node, and the CAs that sign its clients.
import { constants, X509Certificate } from "node:crypto";
import { createSecureContext, type SecureContextOptions } from "node:tls";
import { FileFault, messageOf } from "./reloaded.ts";

export type TlsPaths = {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
};

export type TlsFiles = {
  /** For a server that asks its clients for a certificate. */
  readonly context: SecureContextOptions;
  readonly certificate: X509Certificate;
  readonly cas: readonly X509Certificate[];
};

const PEM = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

/** contents: of the certificate, the key and the CAs. Throws FileFault. */
export function parseTls(paths: TlsPaths, [cert, key, ca]: readonly Buffer[]): TlsFiles {
  const [certificate] = certificatesIn(paths.cert, cert);
  const cas = certificatesIn(paths.ca, ca);
  if (certificate === undefined) throw new FileFault(`${paths.cert} has no certificate`);
  const context: SecureContextOptions = {
    cert,
    key,
    ca,
    minVersion: "TLSv1.3",
    // A resumed session would bring back who a client was under a CA that may be gone.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
  try {
    createSecureContext(context);
  } catch (error) {
    throw new FileFault(`${paths.key} is not the key of ${paths.cert}: ${messageOf(error)}`);
  }
  return { context, certificate, cas };
}

function certificatesIn(path: string, content: Buffer | undefined): readonly X509Certificate[] {
  const texts = content?.toString("latin1").match(PEM) ?? [];
  if (texts.length === 0) throw new FileFault(`${path} has no certificate in PEM`);
  return texts.map((text, index) => {
    try {
      return new X509Certificate(text);
    } catch (error) {
      throw new FileFault(`${path}: certificate ${index + 1}: ${messageOf(error)}`);
    }
  });
}
