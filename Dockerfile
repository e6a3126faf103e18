# Built by `make image` in a folder that holds files/, the binary and the libraries it needs, and owned/, the folders that
# volumes are mounted on. Nothing is pulled.
FROM scratch
ARG VERSION
LABEL org.opencontainers.image.title="portolan" \
      org.opencontainers.image.description="A self-hosted, multi-region container registry cluster" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY files/ /
# A volume that is new takes its owner from the folder it is mounted on: there is no shell here to give it away later.
COPY --chown=65532:65532 owned/ /
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 7400 7401 7402 7403
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=6 CMD ["/usr/bin/portolan", "health"]
ENTRYPOINT ["/usr/bin/portolan"]
CMD ["server"]
