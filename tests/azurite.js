// Waits until Azurite answers, and makes a container in it: node tests/azurite.js PORT ACCOUNT CONTAINER. The account's key is
// AZURE_STORAGE_KEY.
const { createHmac } = require("crypto");
const http = require("http");

const [port, account, container] = process.argv.slice(2);
const version = "2022-11-02";

function make() {
    const date = new Date().toUTCString();
    const path = `/${account}/${container}`;
    const signed = `PUT${"\n".repeat(12)}x-ms-date:${date}\nx-ms-version:${version}\n/${account}${path}\nrestype:container`;
    const key = Buffer.from(process.env.AZURE_STORAGE_KEY, "base64");
    const signature = createHmac("sha256", key).update(signed, "utf8").digest("base64");
    const headers = {
        "x-ms-date": date,
        "x-ms-version": version,
        "content-length": "0",
        authorization: `SharedKey ${account}:${signature}`,
    };
    return new Promise((done, failed) => {
        const options = { host: "127.0.0.1", port, method: "PUT", path: `${path}?restype=container`, headers };
        const request = http.request(options, (answer) => {
            answer.resume();
            answer.on("end", () => done(answer.statusCode));
        });
        request.on("error", failed);
        request.end();
    });
}

async function main() {
    for (let waited = 0; waited < 60; waited++) {
        try {
            const status = await make();
            console.log(`making ${container}: HTTP ${status}`);
            process.exit(status === 201 || status === 409 ? 0 : 1);
        } catch (e) {
            console.log(`waiting: ${e.message}`);
        }
        await new Promise((later) => setTimeout(later, 1000));
    }
    process.exit(1);
}

main();
