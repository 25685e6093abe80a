# The agent of one storage node: docker build -t storage-node .
#
# It needs the SPDK socket, sysfs and its own state, and a database:
#   docker run --network host --privileged -v /sys:/sys -v /dev:/dev -v /var/tmp:/var/tmp \
#     -v /var/lib/storage-node:/var/lib/storage-node -e DATABASE_URL=... storage-node
# It runs as root because binding disks to vfio-pci writes to sysfs, which only root may. A node
# with fabric disks only can run it with --user, given a group that may open the SPDK socket and a
# state folder of its own. The image holds no database and none of the programs that tests need.
FROM node:24-bookworm-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# Optional are only the packaged Node and PostgreSQL, for machines that lack them.
RUN npm ci --omit=dev --omit=optional

FROM node:24-bookworm-slim
ENV NODE_ENV=production
WORKDIR /app
COPY --from=dependencies /app/node_modules ./node_modules
COPY package.json ./
COPY migrations ./migrations
COPY src ./src
# Node itself and no shell in between: it gets the signals and stops in order.
ENTRYPOINT ["node", "--disable-warning=ExperimentalWarning", "src/main.ts"]
CMD ["serve"]
