# Trains a configuration and exports the network. Not built by the tests: there is no container engine where they run.
#   docker build -t tfssl .
#   docker run --rm -v "$PWD/runs:/app/runs" -v /path/to/camvid:/app/camvid tfssl configs/camvid/robust_mutual.json
# The development server over what a run left (for production: serving/compose.yaml):
#   docker run --rm -p 127.0.0.1:8501:8501 -p 127.0.0.1:8500:8500 -v "$PWD/runs:/app/runs:ro" --entrypoint python tfssl \
#     -m tfssl.serve runs/robust_mutual --host 0.0.0.0
FROM python:3.11-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY tfssl tfssl
COPY configs configs
ENV TF_CPP_MIN_LOG_LEVEL=2
ENTRYPOINT ["python", "-m", "tfssl.fit"]
CMD ["configs/robust_mutual.json"]
