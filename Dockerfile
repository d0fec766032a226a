# repdyn for the CPU: docker build -t repdyn . && docker run --rm --user "$(id -u)" -v "$PWD:/data" repdyn doctor
# `--user` lets it write into your folder. A home folder that cannot be written to is no problem.
FROM python:3.12-slim

# The CPU build of torch comes first: pip's default on Linux is a CUDA build of several GB. Where that index
# cannot be reached: --build-arg TORCH_INDEX=URL, of a mirror of it.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir torch torchvision --index-url "$TORCH_INDEX"

WORKDIR /src
COPY pyproject.toml README.md LICENSE CITATION.cff CHANGELOG.md ./
COPY repdyn repdyn
COPY adapters adapters
RUN pip install --no-cache-dir ".[demo]" pyarrow && rm -rf /src

RUN useradd --create-home user
USER user
WORKDIR /data
ENTRYPOINT ["repdyn"]
CMD ["--help"]
