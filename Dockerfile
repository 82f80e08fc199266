# Trains a configuration and exports the network. Not built by the tests: there is no container engine where they run.
#   docker build -t tfssl .
#   docker run --rm -v "$PWD/runs:/app/runs" -v /path/to/camvid:/app/camvid tfssl configs/camvid/robust_mutual.json
FROM python:3.11-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY tfssl tfssl
COPY configs configs
ENV TF_CPP_MIN_LOG_LEVEL=2
ENTRYPOINT ["python", "-m", "tfssl.fit"]
CMD ["configs/robust_mutual.json"]
